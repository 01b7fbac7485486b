"""What a batch of uplinks changes, each in one transaction: state (`Control`) and measurements
(`Measurements`).

The two have broker sessions of their own, so that a backlog of telemetry never delays a report.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.devices import inventory, presence, timeline
from fleet.gateway import metrics
from fleet.gateway.source import COMMIT_RECORDS
from fleet.gateway.uplink import Reader, Uplink
from fleet.mqtt import topics
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.reported import Reported
from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import arrivals, dead, ingest, partitions, unproven
from fleet.telemetry.dead import Refused
from fleet.telemetry.ingest import Delivery

LOCK_TIMEOUT_S: Final = 2
STATEMENT_TIMEOUT_S: Final = 30
MAX_TRACKED: Final = 100_000
WARY: Final = timedelta(minutes=1)
"""How long after a window that was stored already more such are expected: they come in crowds, after a lost
connection or from a device that lost an acknowledgement."""


class Handler(ABC):
    """A kind of batches.

    `kinds`: the last part of the topics it takes; `most_records`: about so many a transaction takes;
    `is_counted`: whether its messages are counted (`telemetry.arrivals`).
    """

    kinds: tuple[str, ...] = ()
    most_records = 1
    is_counted = False

    def __init__(self, reader: Reader, *, slot: int) -> None:
        self._reader = reader
        self._slot = slot

    @abstractmethod
    def handle(self, messages: Sequence[Arrived], *, now: datetime) -> None:
        """Take these messages into the database in one transaction, dead letters included.

        Safe to repeat with the same messages. Raises django.db.Error; nothing is then stored.
        """

    def reject(self, message: Arrived, code: str, detail: str, *, now: datetime) -> None:
        """Keep a message that the database will not take as a dead letter. Raises django.db.Error."""
        refused = Refused(_device_of(message.topic), message.topic, code, detail, message.payload)
        partitions.ensure([partitions.day_of(now)], tables=["tele_dead"])
        with transaction.atomic():
            dead.record([refused], slot=self._slot, now=now)
            if self.is_counted:
                arrivals.count(1, 1, slot=self._slot, now=now)
        _count_refused([refused])

    def _read(self, messages: Sequence[Arrived], now: datetime) -> tuple[list[Uplink], list[Refused]]:
        understood: list[Uplink] = []
        refused: list[Refused] = []
        for found in self._reader.read_all(messages, now=now):
            if isinstance(found, Refused):
                refused.append(found)
            else:
                understood.append(found)
        if refused:
            partitions.ensure([partitions.day_of(now)], tables=["tele_dead"])
        return understood, refused


class Control(Handler):
    """Reported documents and presence."""

    kinds = ("reported", "online")
    most_records = 200

    def handle(self, messages: Sequence[Arrived], *, now: datetime) -> None:
        from ota import (
            reports,  # the top layer may look down; here, so that importing the gateway stays cheap
        )

        understood, refused = self._read(messages, now)
        uplinks = without_passing_states(understood)
        news: list[tuple[str, Reported]] = []
        stale = 0
        with transaction.atomic():
            _set_timeouts()
            held = inventory.Held({one.device_id for one in uplinks}, now=now)
            for uplink in uplinks:
                if isinstance(uplink.content, Reported):
                    if held.report(uplink.device_id, uplink.content):
                        news.append((uplink.device_id, uplink.content))
                    else:
                        stale += 1
                elif isinstance(uplink.content, bool):
                    held.presence(uplink.device_id, uplink.content, heard=not uplink.is_retained)
            held.save()
            reports.apply_all(news, now=now)
            dead.record(refused, slot=self._slot, now=now)
        _count_messages(messages)
        _count_refused(refused)
        metrics.REPORTS.labels("applied").inc(len(news))
        metrics.REPORTS.labels("stale").inc(stale)


def without_passing_states(uplinks: Sequence[Uplink]) -> list[Uplink]:
    """The uplinks in their order, without reports that a newer one of the same attempt has overtaken.

    State is level-triggered: when a fleet reports faster than the database takes it, the newest report of an
    attempt says all that a job needs. The last one of an attempt is kept, because only it has the outcome's
    code.
    """
    kept: list[Uplink] = []
    following: dict[str, Any] = {}
    for uplink in reversed(uplinks):
        if isinstance(uplink.content, Reported):
            about = _about(uplink.content)
            if following.get(uplink.device_id) == about:
                continue
            following[uplink.device_id] = about
        kept.append(uplink)
    return kept[::-1]


def _about(report: Reported) -> Any:
    """Which boot, refusals and attempts a report tells of."""
    attempts = [(n, slot.attempt, slot.target) for n, slot in sorted(report.slots.items())]
    return report.boot, report.refusal, report.config_invalid, attempts


class Measurements(Handler):
    """Telemetry batches and events."""

    kinds = ("telemetry", "event")
    most_records = COMMIT_RECORDS
    is_counted = True

    def __init__(self, reader: Reader, *, slot: int) -> None:
        super().__init__(reader, slot=slot)
        self._touched: dict[str, datetime] = {}
        self._wary_until = datetime.min.replace(tzinfo=UTC)

    def handle(self, messages: Sequence[Arrived], *, now: datetime) -> None:
        from ota import reports  # see Control

        understood, refused = self._read(messages, now)
        batches = [
            (Delivery(one.device_id, one.content), one.is_authentic)
            for one in understood
            if isinstance(one.content, Batch)
        ]
        deliveries = [batch for batch, is_authentic in batches if is_authentic]
        shown = [batch for batch, is_authentic in batches if not is_authentic]
        events = [(one.device_id, one.content) for one in understood if isinstance(one.content, Event)]
        expects_repeats = now < self._wary_until or any(message.is_again for message in messages)
        # Before the transaction: a new partition is locked until its transaction ends.
        ingest.ensure_partitions(deliveries)
        with transaction.atomic():
            _set_timeouts()
            stored = ingest.store(deliveries, slot=self._slot, now=now, expects_repeats=expects_repeats)
            kept = unproven.store(shown, now=now)
            fresh = timeline.record_events(events, now=now)
            for device_id, event in fresh:
                reports.apply_event(device_id, event, now=now)
            heard = self._due({one.device_id for one in understood}, now)
            presence.touch(heard, now)
            dead.record(refused, slot=self._slot, now=now)
            # Without those that nothing authenticates: they would make the share of refused ones small.
            arrivals.count(len(messages) - len(shown), len(refused), slot=self._slot, now=now)
        self._touched.update(dict.fromkeys(heard, now))
        if stored.duplicates:
            self._wary_until = now + WARY
        _count_messages(messages)
        _count_refused(refused)
        metrics.WINDOWS.labels("stored").inc(stored.windows)
        metrics.WINDOWS.labels("duplicate").inc(stored.duplicates)
        metrics.WINDOWS.labels("unauthenticated").inc(kept)
        metrics.SAMPLES.labels("inference").inc(stored.inferences)
        metrics.SAMPLES.labels("sketch").inc(stored.sketches)
        metrics.EVENTS.labels("stored").inc(len(fresh))
        metrics.EVENTS.labels("duplicate").inc(len(events) - len(fresh))

    def _due(self, device_ids: set[str], now: datetime) -> set[str]:
        """Those whose presence was not noted lately; each batch names much the same ones."""
        if len(self._touched) > MAX_TRACKED:
            self._touched.clear()
        before = now - presence.TOUCH_EVERY
        touched = self._touched
        return {one for one in device_ids if one not in touched or touched[one] <= before}


def _set_timeouts() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)",
            [f"{LOCK_TIMEOUT_S}s", f"{STATEMENT_TIMEOUT_S}s"],
        )


def _device_of(topic: str) -> str:
    try:
        return topics.parse_uplink(topic)[0]
    except CodecError:
        return ""


def _kind_of(topic: str) -> str:
    kind = topic.rpartition("/")[2]
    return kind if kind in topics.UPLINK_KINDS else "other"


def _count_messages(messages: Iterable[Arrived]) -> None:
    for kind, count in Counter(_kind_of(message.topic) for message in messages).items():
        metrics.MESSAGES.labels(kind).inc(count)


def _count_refused(refused: Iterable[Refused]) -> None:
    for letter in refused:
        metrics.REFUSED.labels(_kind_of(letter.topic), letter.code).inc()
