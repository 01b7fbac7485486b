"""Ask devices for telemetry that is missing, by a signed command each (verb 4, SPEC.md section 6).

Only the online key can ask, so it is done here and not where the gaps are found. A command is never retained:
it is for a device that is there, and it expires before the next try.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog
from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM
from fleet.devices.installation import installation_id
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient
from fleet.mqtt.codec.names import CommandVerb
from fleet.telemetry import gap_asking, gaps
from fleet.telemetry.gap_asking import Question
from ota import keys
from ota.desired import Command, DesiredError, next_counter, sign_command

log = structlog.get_logger(__name__)

CONNECT_S: Final = 10.0
PUBLISH_DEADLINE_S: Final = 20.0


def repair(*, now: datetime) -> int:
    """Find and close gaps, then ask for those that are left; returns how many devices were asked.

    Raises MqttError and KeysError; what was found stays found, and who was not asked is asked next time.
    """
    gaps.run(now, installation_id=installation_id())
    return ask(now=now)


def ask(*, now: datetime, client: BackendClient | None = None) -> int:
    """Send a command to each device that is due (`gap_asking.due`); returns how many.

    client: connected; None connects as a worker. Raises MqttError, KeysError, DeviceError `not_set_up`.
    """
    questions = gap_asking.due(now)
    if not questions:
        return 0
    trust, _ = keys.current_trust()
    commands = _counters(questions, trust.version, int(now.timestamp()))
    with transaction.atomic():
        mine = gap_asking.claim([one for one in questions if one.device_id in commands], commands, now=now)
        if not mine:
            return 0
        audit.record(
            actor=SYSTEM,
            verb="telemetry.resend",
            subject_kind="devices",
            subject_id=mine[0].device_id if len(mine) == 1 else f"{len(mine)} devices",
            at=now,
            after={"devices": len(mine), "gaps": sum(len(one.gaps) for one in mine)},
        )
    signer, installation = keys.online_signer(), installation_id()
    messages = [
        (
            topics.cmd(one.device_id),
            sign_command(
                Command(
                    device_id=one.device_id,
                    counter=commands[one.device_id],
                    trust_version=trust.version,
                    verb=CommandVerb.RESEND_TELEMETRY,
                    issued=int(now.timestamp()),
                    expires=int((now + gaps.RETRY).timestamp()),
                    args=(one.boot, one.first, one.last),
                ),
                signer,
                installation_id=installation,
            ),
        )
        for one in mine
    ]
    if client is not None:
        client.publish_all(messages, retain=False, deadline_s=PUBLISH_DEADLINE_S)
    else:
        with BackendClient("worker") as own:
            own.connect(timeout_s=CONNECT_S)
            own.publish_all(messages, retain=False, deadline_s=PUBLISH_DEADLINE_S)
    gap_asking.asked(mine)
    return len(mine)


def _counters(questions: Sequence[Question], trust_version: int, now_s: int) -> dict[str, int]:
    """The next command counter of each device; one whose counters are burned is left out."""
    found: dict[str, int] = {}
    for one in questions:
        try:
            found[one.device_id] = next_counter(trust_version, now_s, one.last_command, one.reported_command)
        except DesiredError as problem:
            log.error("counter_burned", device=one.device_id, reason=problem.text)
    return found
