"""Retirement: a device that is out of service for good. Its history stays, its access goes.

It leaves every list, target and group; a worker ends its jobs (`removed`) and the rollouts that hold it count
it no more. Its keys are revoked, so a gateway believes nothing that it says within half a minute, and its
line in the broker's password file goes, which ends its session. Its id is not given out again.

Over REST this is a verb and not DELETE: nothing is deleted, and it takes a reason.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Final

from django.db import transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices import broker, keys
from fleet.devices.errors import RetirementError
from fleet.devices.models import Device, DeviceCredential, DeviceEvent, Presence
from fleet.mqtt.broker_files import BrokerFilesError

MAX_REASON: Final = 128
EVENT: Final = "retired"
"""Kind of the timeline's row that says why."""


def retire(device_id: str, *, reason: str, actor: Actor, now: datetime) -> Device:
    """Take a device out of service for good; returns it as it is then. Safe to repeat after `unavailable`.

    The broker is told once the outermost transaction is committed: a file knows no rollback, and who else
    writes it before that sees the device in service. reason: 1 to 128 characters for people. Raises
    RetirementError `validation` without one, `not_found` for an unknown device, `illegal_transition` for one
    that is retired already, and `unavailable` (from the caller's commit, if it has a transaction) when the
    broker's password file cannot be written: the device is retired then, and asking again, like the next
    enrolment, ends its access.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= MAX_REASON:
        raise RetirementError("validation", f"a retirement needs a reason of 1 to {MAX_REASON} characters")
    with transaction.atomic():
        in_service = Device.objects.filter(pk=device_id, retired_at=None)
        is_mine = in_service.update(retired_at=now, presence=Presence.OFFLINE) == 1
        if is_mine:
            live = DeviceCredential.objects.filter(device_id=device_id, revoked_at=None)
            kids = list(live.order_by("pk").values_list("mac_kid", flat=True))
            live.update(revoked_at=now)
            keys.announce(device_id)
            DeviceEvent.objects.create(device_id=device_id, at=now, kind=EVENT, text=f"retired: {reason}")
            audit.record(
                actor=actor,
                verb="device.retire",
                subject_kind="device",
                subject_id=device_id,
                at=now,
                after={"revoked": kids},
                reason=reason,
            )
    device = Device.objects.filter(pk=device_id).first()
    if device is None:
        raise RetirementError("not_found", f"no device {device_id}")
    transaction.on_commit(partial(_end_access, device_id))
    if not is_mine:
        text = f"retire is not possible: {device_id} is retired"
        raise RetirementError("illegal_transition", text, state="retired")
    return device


def _end_access(device_id: str) -> None:
    try:
        broker.sync()
    except (BrokerFilesError, OSError) as error:
        text = f"{device_id} is retired, but the broker's password file cannot be written: {error}"
        raise RetirementError("unavailable", text) from error
