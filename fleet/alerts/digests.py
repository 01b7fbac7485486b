"""What an e-mail about alerts says: one line each, what to do about it, and where to read on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.core.mail import EmailMessage

from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Delivery

_TOLD: Final = {"alert.opened": "opened", "alert.resolved": "resolved"}


def compose(rows: Sequence[Delivery], *, recipient: str, waiting: int, now: datetime) -> EmailMessage:
    """The message that tells of these deliveries, oldest first. waiting: further ones that did not fit.

    The same deliveries make the same Message-ID: a mail program shows a message that was sent twice once.
    """
    counts = Counter(_TOLD.get(row.event, row.event) for row in rows)
    said = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    is_critical = any(row.body["data"]["severity"] == "critical" and _is_opened(row) for row in rows)
    lines = [f"Alerts of {settings.PUBLIC_URL}: {said}.", ""]
    for row in rows:
        lines += _lines(row)
    if waiting:
        lines += [f"{waiting:,} more wait for the next message.", ""]
    names = ",".join(str(row.pk) for row in rows)
    digest = hashlib.sha256(f"{recipient} {names}".encode()).hexdigest()[:32]
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].rstrip(">") or "localhost"
    return EmailMessage(
        subject=f"TinyFleet: {'CRITICAL, ' if is_critical else ''}alerts {said}",
        body="\n".join(lines),
        to=[recipient],
        headers={"Message-ID": f"<{digest}@{domain}>", "Auto-Submitted": "auto-generated"},
    )


def _is_opened(row: Delivery) -> bool:
    return row.event == "alert.opened"


def _lines(row: Delivery) -> list[str]:
    data: dict[str, Any] = row.body["data"]
    kind = KINDS.get(data["kind"])
    about = f"device {data['device']}" if data["device"] else data["scope"]
    at = datetime.fromisoformat(row.body["at"])
    lines = [
        f"{_TOLD.get(row.event, row.event).upper()} {data['severity']}: "
        f"{kind.label if kind else data['kind']}, {about} (rule {data['rule']}, {at:%Y-%m-%d %H:%M:%S} UTC)"
    ]
    if kind and _is_opened(row):
        lines.append(f"  {kind.advice}")
    elif data["reason"]:
        lines.append(f"  {data['reason']}")
    return [*lines, f"  {settings.PUBLIC_URL}/alerts/{row.body['object']['id']}", ""]
