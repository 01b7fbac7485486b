"""Virtual devices that a person starts from the console: the real firmware core and TFLM, on this machine.

Only a private installation offers them (`manage.py dev` runs their attendant). They are enrolled like any
board, with one-time tokens and over HTTPS, and are ordinary devices to everything else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db.models import Count, Q

from device_firmware.host.attendant import INBOX, PROBLEM, is_attended
from fleet.accounts.audit import Actor
from fleet.devices import enrolment
from fleet.devices.errors import EnrolmentError
from fleet.devices.models import Device, DeviceClass, EnrolmentToken, Presence
from fleet.ids import uuid7
from fleet.stack.product import SIMULATED

PREFIX: Final = "sim-"
MOST: Final = 40
"""Simulated devices in all: each is a process of about 9 MB beside what the stack needs."""
USUAL: Final = 12


@dataclass(frozen=True)
class Simulated:
    """How far they are. asked: ids that have a token which may still be used, or are enrolled. problem: what
    went wrong last, "" for nothing.
    """

    asked: int
    enrolled: int
    online: int
    problem: str

    @property
    def is_moving(self) -> bool:
        """True while some of them are on the way."""
        return not self.problem and self.online < self.asked

    @property
    def left(self) -> int:
        """How many more may be asked for."""
        return max(0, MOST - self.asked)


def folder() -> Path:
    """Where they live."""
    return Path(settings.RUN_DIR) / SIMULATED


def is_offered() -> bool:
    """Whether this installation runs virtual devices when asked to."""
    return not settings.PRODUCTION and is_attended(folder())


def now_there(now: datetime) -> Simulated:
    """What became of those that were asked for."""
    counts = Device.objects.filter(pk__startswith=PREFIX, retired_at=None).aggregate(
        enrolled=Count("pk"), online=Count("pk", filter=Q(presence=Presence.ONLINE))
    )
    tokens = EnrolmentToken.objects.filter(device_id__startswith=PREFIX, used_at=None, expires_at__gt=now)
    try:
        problem = (folder() / PROBLEM).read_text(errors="replace")[:500].strip()
    except OSError:
        problem = ""
    return Simulated(counts["enrolled"] + tokens.count(), problem=problem, **counts)


def start(count: int, device_class: str, *, actor: Actor, now: datetime) -> list[str]:
    """Ask for so many more; returns their ids. They are there once their attendant has enrolled them.

    Raises EnrolmentError `validation` for a count outside what is left or a class that is no simulated one,
    `unknown_class`, and `validation` where nobody would run them.
    """
    if not is_offered():
        raise EnrolmentError("validation", "nobody runs simulated devices here; `manage.py dev` does")
    left = now_there(now).left
    if not 1 <= count <= left:
        raise EnrolmentError(
            "validation", f"{count} devices asked for, 1 to {left} more can be simulated", field="count"
        )
    row = DeviceClass.objects.filter(pk=device_class).first()
    if row is None:
        raise EnrolmentError("unknown_class", f"no class {device_class[:32]}", field="class")
    if not row.is_simulated:
        raise EnrolmentError("validation", f"{row.name} is a class of real boards", field="class")
    ids = _free(count)
    tokens = enrolment.create_tokens(row, ids, actor=actor, now=now)
    _hand_over(ids, tokens, row.name)
    return ids


def _free(count: int) -> list[str]:
    """The next ids that no device and no token has ever had."""
    taken = set(Device.objects.filter(pk__startswith=PREFIX).values_list("pk", flat=True))
    named = EnrolmentToken.objects.filter(device_id__startswith=PREFIX)
    taken |= set(named.values_list("device_id", flat=True))
    found: list[str] = []
    number = 0
    while len(found) < count:
        if (name := f"{PREFIX}{number:04d}") not in taken:
            found.append(name)
        number += 1
    return found


def _hand_over(ids: Sequence[str], tokens: Sequence[str], device_class: str) -> None:
    """Put the tickets where the attendant looks, whole or not at all; only this user can read them."""
    inbox = folder() / INBOX
    inbox.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = inbox / f"{uuid7().hex}.part"
    lines = [
        json.dumps({"device_id": name, "token": token, "class": device_class, "url": settings.PUBLIC_URL})
        for name, token in zip(ids, tokens, strict=True)
    ]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    path.rename(path.with_suffix(".jsonl"))
