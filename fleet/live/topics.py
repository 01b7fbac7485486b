"""What can be watched, by whom, and what changed while nobody listened.

The objects' own trails are the outbox that a stream resumes from: audit rows, reports and events are written
in the transaction of each change and say when it was, so a hint needs no row of its own. Where a trail would
have to be searched (the jobs of a rollout that runs), the answer is yes: a hint too many costs a read.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import Q

from fleet import hints
from fleet.accounts.models import AuditEvent
from fleet.alerts.models import Alert, AlertEvent
from fleet.devices.models import Device, DeviceEvent
from fleet.live.errors import LiveError
from fleet.mqtt.codec.names import is_device_id
from ota.choices import ROLLOUT_LIVE, VersionState
from ota.models import ModelVersion, Rollout

MOST: Final = 20
KEPT: Final = timedelta(hours=24)
_OVERLAP: Final = timedelta(seconds=10)
"""A change is told after its commit and carries the time of its beginning, or of another machine's clock."""
_SCOPES: Final = {
    "rollout": "rollouts:read",
    "rollouts": "rollouts:read",
    "device": "devices:read",
    "alerts": "telemetry:read",
    "version": "models:read",
}
_ALONE: Final = ("rollouts", "alerts")
_MOVING: Final = (VersionState.UPLOADED, VersionState.INSPECTING, VersionState.SIGNED, VersionState.STAGING)


def parse(text: str) -> tuple[str, ...]:
    """Topics of `a,b,c` in their one spelling, each once.

    Raises LiveError `validation` for none, more than MOST, or one that is no topic.
    """
    found = dict.fromkeys(_topic(part.strip()) for part in text[: MOST * 64 + 1].split(",") if part.strip())
    if not found:
        raise LiveError("validation", f"name topics: {_EXAMPLES}")
    if len(found) > MOST or len(text) > MOST * 64:
        raise LiveError("validation", f"at most {MOST} topics can be watched by one stream")
    return tuple(found)


_EXAMPLES: Final = "rollout:<id>, rollouts, device:<id>, version:<number>, alerts"


def _topic(text: str) -> str:
    kind, colon, name = text.partition(":")
    if not colon and kind in _ALONE:
        return kind
    if kind == "rollout" and name:
        try:
            return hints.rollout(uuid.UUID(name))
        except ValueError:
            pass
    if kind == "device" and is_device_id(name):
        return hints.device(name)
    if kind == "version" and name.isascii() and name.isdigit() and 0 < int(name) < 2**31:
        return hints.version(int(name))
    raise LiveError("validation", f"{text[:48]!r} is no topic; there are {_EXAMPLES}")


def scope_of(topic: str) -> str:
    """The scope that lets somebody watch it."""
    return _SCOPES[topic.partition(":")[0]]


def check(topics: Sequence[str], scopes: Collection[str]) -> None:
    """Raises LiveError `scope_missing` for a topic that none of `scopes` allows, `not_found` for one whose
    object does not exist.
    """
    for topic in topics:
        if scope_of(topic) not in scopes:
            raise LiveError(
                "scope_missing", f"{topic} needs the scope {scope_of(topic)}", scope=scope_of(topic)
            )
    known: dict[str, Callable[[list[str]], set[str]]] = {
        "rollout": lambda ids: {str(pk) for pk in _keys(Rollout, ids)},
        "device": lambda ids: {str(pk) for pk in _keys(Device, ids)},
        "version": lambda ids: {str(pk) for pk in _keys(ModelVersion, ids)},
    }
    for kind, look in known.items():
        asked = [topic.partition(":")[2] for topic in topics if topic.startswith(f"{kind}:")]
        if asked and (gone := set(asked) - look(asked)):
            raise LiveError("not_found", f"no {kind} {sorted(gone)[0]}")


def _keys(model: Any, ids: list[str]) -> list[Any]:
    return list(model.objects.filter(pk__in=ids).values_list("pk", flat=True))


def since(last_event_id: str, *, now: datetime) -> datetime | None:
    """The moment that a `Last-Event-ID` names; None when it is none of ours, or older than KEPT."""
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 17):
        return None
    moment = datetime.fromtimestamp(int(last_event_id) / 1e6, UTC)
    return moment if now - KEPT <= moment <= now + _OVERLAP else None


def missed(topics: Sequence[str], moment: datetime) -> list[str]:
    """Those of the topics that may have changed since a moment."""
    after = moment - _OVERLAP
    return [topic for topic in topics if _CHANGED[topic.partition(":")[0]](topic.partition(":")[2], after)]


def _rollout(rollout_id: str, after: datetime) -> bool:
    if Rollout.objects.filter(pk=rollout_id, state__in=ROLLOUT_LIVE).exists():
        return True
    return AuditEvent.objects.filter(subject_kind="rollout", subject_id=rollout_id, at__gte=after).exists()


def _rollouts(_: str, after: datetime) -> bool:
    moved = Q(state__in=ROLLOUT_LIVE) | Q(created_at__gte=after) | Q(finished_at__gte=after)
    if Rollout.objects.filter(moved).exists():
        return True
    return AuditEvent.objects.filter(subject_kind="rollout", at__gte=after).exists()


def _device(device_id: str, after: datetime) -> bool:
    if Device.objects.filter(Q(reported_at__gte=after) | Q(last_seen_at__gte=after), pk=device_id).exists():
        return True
    if AuditEvent.objects.filter(subject_kind="device", subject_id=device_id, at__gte=after).exists():
        return True
    return DeviceEvent.objects.filter(device_id=device_id, at__gte=after).exists()


def _alerts(_: str, after: datetime) -> bool:
    if Alert.objects.filter(last_seen_at__gte=after).exists():
        return True
    return AlertEvent.objects.filter(at__gte=after).exists()


def _version(number: str, after: datetime) -> bool:
    if ModelVersion.objects.filter(pk=number, state__in=_MOVING).exists():
        return True
    return AuditEvent.objects.filter(subject_kind="version", subject_id=number, at__gte=after).exists()


_CHANGED: Final[dict[str, Callable[[str, datetime], bool]]] = {
    "rollout": _rollout,
    "rollouts": _rollouts,
    "device": _device,
    "alerts": _alerts,
    "version": _version,
}
