"""One evaluation: every rule over what is stored, then what changed goes through the machine.

The lease (an advisory lock) keeps two workers from doing the same at once; what must not happen twice is
decided by the machine's conditional writes, so an evaluation without the lease is merely wasted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import structlog
from django.db import Error, transaction

from fleet.alerts import machine, measure, pausing
from fleet.alerts.choices import ALERT_ACTIVE
from fleet.alerts.findings import Finding
from fleet.alerts.models import Alert, Rule
from fleet.devices.errors import DeviceError
from ota.locks import try_lock

log = structlog.get_logger(__name__)
LEASE = "alerts.evaluate"


@dataclass(frozen=True)
class Outcome:
    """What an evaluation did, in numbers of alerts, rollouts and rules."""

    opened: int = 0
    kept: int = 0
    resolved: int = 0
    paused: int = 0
    problems: int = 0


def evaluate(now: datetime) -> Outcome | None:
    """Evaluate every enabled rule; None when another worker is at it."""
    with try_lock(LEASE) as is_mine:
        return run(now) if is_mine else None


def run(now: datetime) -> Outcome:
    """As `evaluate`, without the lease. A rule that cannot be evaluated says why and holds up no other."""
    opened = kept = resolved = problems = 0
    for rule in Rule.objects.filter(is_enabled=True):
        try:
            with transaction.atomic():
                counts = _evaluate(rule, now)
            problem = ""
        except (DeviceError, Error) as error:
            problem = str(error)[:256]
            log.error("alert_rule_failed", rule=rule.name, reason=problem)
            counts, problems = (0, 0, 0), problems + 1
        if problem != rule.problem:
            Rule.objects.filter(pk=rule.pk).update(problem=problem)
        opened, kept, resolved = opened + counts[0], kept + counts[1], resolved + counts[2]
    return Outcome(opened, kept, resolved, pausing.act(now=now), problems)


def _evaluate(rule: Rule, now: datetime) -> tuple[int, int, int]:
    known = {alert.scope_key: alert for alert in Alert.objects.filter(rule=rule, state__in=ALERT_ACTIVE)}
    found = measure.findings(rule, now=now, open_keys=list(known))
    parents: dict[str, Alert] = {}
    opened, keeping, clearing = 0, [], []
    for one in found:  # parts of the fleet come first: their devices' alerts fold into them
        alert = known.get(one.key)
        if one.is_firing and alert is not None:
            keeping.append((alert, one))
        elif one.is_firing:
            alert = machine.fire(rule, one, parent=parents.get(one.key), now=now)
            opened += alert is not None
        elif one.is_clear and alert is not None:
            clearing.append(alert)
        if one.is_firing and alert is not None:
            parents |= dict.fromkeys(one.folded, alert)
    _fold(keeping, parents)
    return opened, machine.keep(keeping, now=now), machine.clear(clearing, now=now)


def _fold(keeping: list[tuple[Alert, Finding]], parents: dict[str, Alert]) -> None:
    """Devices' alerts that were there before that of their part of the fleet fold into it too."""
    for alert, one in keeping:
        parent = parents.get(one.key)
        if parent is not None and alert.folded_into_id != parent.pk:
            Alert.objects.filter(pk=alert.pk).update(folded_into=parent)
