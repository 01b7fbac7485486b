"""What rules about the installation itself find: how far ingest is behind, what it refuses, what the cold
tier did not take, whom messages did not reach.

Their alerts name no device and no part of the fleet; `evidence["subject"]` says what they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any, Final

from django.conf import settings
from django.db.models import Count, Q

from fleet.alerts.choices import DeliveryState
from fleet.alerts.findings import Finding
from fleet.alerts.kinds import FLEET_CONFIDENCE, KINDS, LEAST_REFUSED, Kind
from fleet.alerts.models import Delivery
from fleet.telemetry import arrivals, dead, ingesters
from fleet.telemetry.cold_models import ColdPart
from ota.gates.wilson import wilson_lower_bound

GATEWAY: Final = "gateway:"
COLD: Final = "cold:"
REFUSED: Final = "refused:all"
RECEIVER: Final = "receiver:"
_KEY_CHARS: Final = 160
_NAMED: Final = 5


def findings(
    kind: Kind, threshold: float, *, now: datetime, open_keys: Collection[str] = ()
) -> list[Finding]:
    """Whatever fires, and whatever is known of `open_keys`: what is not there any more is clear."""
    found = _FIND[kind.name](threshold, now)
    known = {one.key for one in found}
    gone = [Finding(key, False, True, {}) for key in sorted(set(open_keys) - known)]
    about = {"unit": kind.unit, "to": now.isoformat(), "from": (now - kind.span).isoformat(), "devices": []}
    return [
        Finding(one.key, one.is_firing, one.is_clear, {**one.evidence, **about}) for one in (*found, *gone)
    ]


def _lags(threshold: float, now: datetime) -> list[Finding]:
    found = []
    for one in ingesters.lags(now=now):
        lag_s = one.lag.total_seconds()
        is_firing = lag_s > threshold
        evidence: dict[str, Any] = {
            "subject": f"gateway {one.name}",
            "value": lag_s,
            "limit": threshold,
            "n": one.messages,
            "is_silent": one.told.total_seconds() > threshold,
        }
        found.append(Finding(GATEWAY + one.name, is_firing, not is_firing, evidence))
    return found


def _cold(threshold: float, now: datetime) -> list[Finding]:
    """One finding per kind of rows: those of a disk that is full fail together."""
    found = []
    rows = ColdPart.objects.exclude(problem="").order_by("kind", "day")
    for name, parts in groupby(rows, key=lambda one: one.kind):
        failed = list(parts)
        evidence: dict[str, Any] = {
            "subject": f"cold tier, {name} rows",
            "value": len(failed),
            "limit": threshold,
            "n": len(failed),
            "days": [str(one.day) for one in failed[:_NAMED]],
            "problem": failed[0].problem,
        }
        found.append(Finding(COLD + name, len(failed) >= threshold, len(failed) < threshold, evidence))
    return found


def _refused(threshold: float, now: datetime) -> list[Finding]:
    """Of all gateways together: devices that share a mistake share it whatever gateway they come to."""
    since = now - KINDS["refused_share"].span
    messages, refused = arrivals.totals(since, now)
    low = wilson_lower_bound(min(refused, messages), messages, confidence=FLEET_CONFIDENCE)
    is_firing = refused >= LEAST_REFUSED and low > threshold
    evidence: dict[str, Any] = {
        "subject": "telemetry and events of all devices",
        "value": refused / messages if messages else 0.0,
        "low": low,
        "limit": threshold,
        "n": messages,
        "refused": refused,
        "codes": dead.codes(since, now, most=_NAMED),
    }
    return [Finding(REFUSED, is_firing, bool(messages) and not is_firing, evidence)]


def _undelivered(threshold: float, now: datetime) -> list[Finding]:
    """One finding per receiver. What was sent again since, and taken, has failed no more; nor has what was
    for an address that is none of ALERT_EMAILS any more. A webhook that was removed took its messages along.
    """
    since = now - KINDS["delivery_failed"].span
    failed = Delivery.objects.filter(state=DeliveryState.FAILED, finished_at__gt=since)
    failed = failed.filter(Q(webhook__isnull=False) | Q(recipient__in=settings.ALERT_EMAILS))
    receivers = failed.order_by().values("webhook_id", "webhook__name", "recipient").annotate(n=Count("pk"))
    found = []
    for one in receivers.order_by("webhook__name", "recipient"):
        hook, recipient, n = one["webhook_id"], one["recipient"], one["n"]
        last = failed.filter(webhook=hook, recipient=recipient).order_by("-finished_at").first()
        evidence: dict[str, Any] = {
            "subject": f"webhook {one['webhook__name']}" if hook else f"e-mail to {recipient}",
            "value": n,
            "limit": threshold,
            "n": n,
            "problem": last.error if last is not None else "",
        }
        key = f"{RECEIVER}{hook or recipient}"[:_KEY_CHARS]
        found.append(Finding(key, n >= threshold, n < threshold, evidence))
    return found


_FIND: Final[Mapping[str, Callable[[float, datetime], list[Finding]]]] = {
    "ingest_lag": _lags,
    "cold_export_failed": _cold,
    "refused_share": _refused,
    "delivery_failed": _undelivered,
}
