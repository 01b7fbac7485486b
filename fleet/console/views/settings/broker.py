"""How the broker does: whether it is reached, which of its limits lose messages, who of us is connected."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError

from fleet.accounts.scopes import READ
from fleet.console.access import page
from fleet.console.templatetags.console import num
from fleet.mqtt import broker_status
from fleet.mqtt.broker_files import BrokerFilesError
from fleet.mqtt.broker_status import Names, Status
from fleet.stack import health, mosquitto

TIMEOUT_S: Final = 2.0
FRESH_S: Final = 10
"""The broker renews its figures as often; so many seconds one answer serves everybody who looks."""
_KEY: Final = "console:broker:status"

MEANING: Final = {
    "max_queued_messages": "Wait for one client that is away or slow. What comes beyond is lost.",
    "max_queued_bytes": "As above, in bytes; both hold.",
    "max_inflight_messages": "Sent to one client and not yet acknowledged; the next ones wait in its queue.",
    "max_inflight_bytes": "As above, in bytes; 0 is no limit.",
    "message_size_limit": "Bytes of a message. A longer one is refused.",
    "max_packet_size": "Bytes of a packet. Who sends a longer one is disconnected.",
    "max_keepalive": "Seconds that a client may be silent at most.",
    "memory_limit": "Bytes of memory. Beyond it every publish is refused until some is free.",
    "persistent_client_expiration": "A session that is away so long is forgotten, with all it queues.",
}
LOSES: Final = frozenset(
    {"max_queued_messages", "max_queued_bytes", "memory_limit", "persistent_client_expiration"}
)
"""Limits beyond which messages are lost that somebody was promised."""
FIGURES: Final = (
    ("clients/connected", "Clients connected"),
    ("clients/disconnected", "Sessions kept while away"),
    ("subscriptions/count", "Subscriptions"),
    ("retained messages/count", "Retained messages"),
    ("store/messages/count", "Messages in the store"),
    ("store/messages/bytes", "Bytes in the store"),
    ("heap/current", "Memory in use, bytes"),
    ("load/messages/received/1min", "Received a minute"),
    ("load/messages/sent/1min", "Sent a minute"),
    ("load/publish/dropped/1min", "Dropped a minute"),
)
DROPPED: Final = "publish/messages/dropped"


@dataclass(frozen=True)
class Limit:
    """A limit. found: "" when the configuration is not on this machine, or does not name it."""

    name: str
    wanted: str
    found: str
    text: str
    loses: bool


@require_safe
@page(*READ)
def broker(request: HttpRequest) -> HttpResponse:
    """Connection, limits, figures, names. Costs a connection to the broker at most each FRESH_S seconds."""
    status = _status()
    users = Path(settings.MQTT["users_file"])
    context: dict[str, Any] = {
        "status": status,
        "where": f"{settings.MQTT['host']}:{settings.MQTT['port']}",
        "dropped": status.number(DROPPED),
        "figures": [(label, status.number(topic)) for topic, label in FIGURES],
        "limits": _limits(users),
        "finding": health.check_broker_limits(users),
        "disk": health.check_disk(Path(settings.RUN_DIR)).text.partition(" at ")[0],
        "names": _names(users),
    }
    return render(request, "console/settings/broker.html", context)


def _status() -> Status:
    """What the broker said, at most FRESH_S ago. Without Redis it is asked each time."""
    try:
        if known := cache.get(_KEY):
            return Status(*known)
    except RedisError:
        return broker_status.read(timeout_s=TIMEOUT_S)
    found = broker_status.read(timeout_s=TIMEOUT_S)
    with suppress(RedisError):
        cache.set(_KEY, (found.code, found.text, dict(found.figures)), FRESH_S)
    return found


def _limits(users: Path) -> list[Limit]:
    config = users.parent / "mosquitto.conf"
    lines = config.read_text().splitlines() if config.is_file() else []
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    return [
        Limit(name, _spaced(wanted), _spaced(found.get(name, "")), MEANING.get(name, ""), name in LOSES)
        for name, wanted in mosquitto.LIMITS.items()
    ]


def _spaced(value: str) -> str:
    return num(int(value)) if value.isascii() and value.isdigit() else value


def _names(users: Path) -> list[Names]:
    try:
        return broker_status.names(users)
    except BrokerFilesError:
        return []
