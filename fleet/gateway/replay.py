"""Send dead letters through the pipeline once more, after what refused them was mended.

A letter that is understood now is stored and deleted in one transaction, so that a replay that is killed, or
run twice, or twice at a time, counts every record once. One that is still refused stays as it is: its payload
may be cut, its device still unknown. Telemetry and events only: a report or a presence from days ago would
undo what the device has said since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog
from django.db import Error as DatabaseError
from django.db import OperationalError, connection, transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices import timeline
from fleet.gateway.uplink import Reader, Uplink
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import dead, ingest
from fleet.telemetry.dead import Refused
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.ingest import Delivery, Stored

log = structlog.get_logger(__name__)

SLOT: Final = 32_767
"""Ingest slot of replayed records: no gateway waits for it, and readers add slots up."""
STEP: Final = 500
"""Letters of a transaction."""
KINDS: Final = ("telemetry", "event")
TRIES: Final = 5

_Letter = tuple[datetime, int, str, bytes]  # at, id, topic, payload


@dataclass
class Replayed:
    """What a replay did. seen: letters looked at; taken: those that are stored and gone.

    windows, inferences, sketches, events: new rows; duplicates: windows that had arrived after all. refused:
    letters that stay, by the code of today.
    """

    seen: int = 0
    taken: int = 0
    windows: int = 0
    inferences: int = 0
    sketches: int = 0
    events: int = 0
    duplicates: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, taken: int, stored: Stored, events: int) -> None:
        """Count a step."""
        self.taken += taken
        self.windows += stored.windows
        self.inferences += stored.inferences
        self.sketches += stored.sketches
        self.duplicates += stored.duplicates
        self.events += events


def replay(reader: Reader, code: str, *, actor: Actor, now: datetime, device_id: str = "") -> Replayed:
    """Replay the letters of a code that are kept by now, oldest first; of one device when it is named.

    Each step is audited with what it did, in its own transaction. Raises TelemetryError `unknown_code`,
    django.db.Error and SealError; steps that were done stay done.
    """
    if code not in dead.CODES:
        codes = ", ".join(dead.CODES)
        raise TelemetryError("unknown_code", f"no message is refused as {code[:40]!r}; the codes are {codes}")
    done = Replayed()
    after: tuple[datetime, int] | None = None
    while letters := _letters(code, device_id, after, now):
        after = letters[-1][:2]
        done.seen += len(letters)
        messages = {
            (at, number): Arrived(topic, payload, False, 0, 0) for at, number, topic, payload in letters
        }
        understood: dict[tuple[datetime, int], Uplink] = {}
        read = reader.read_all(list(messages.values()), now=now)
        for key, found in zip(messages, read, strict=True):
            if isinstance(found, Refused):
                done.refused[found.code] += 1
            else:
                understood[key] = found
        _take(understood, code, done, actor=actor, now=now)
    return done


def _letters(
    code: str, device_id: str, after: tuple[datetime, int] | None, now: datetime
) -> Sequence[_Letter]:
    """The next letters behind `after`; those that are refused while this runs are left to the next replay."""
    kinds = [f"%/{kind}" for kind in KINDS]
    at, number = after or (datetime.min.replace(tzinfo=now.tzinfo), 0)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT at, id, topic, payload FROM tele_dead WHERE code = %s AND topic LIKE ANY(%s)"
            " AND (device_id = %s OR %s = '') AND (at, id) > (%s, %s) AND at < %s ORDER BY at, id LIMIT %s",
            [code, kinds, device_id, device_id, at, number, now, STEP],
        )
        return [(at, number, topic, bytes(payload)) for at, number, topic, payload in cursor.fetchall()]


def _take(
    letters: dict[tuple[datetime, int], Uplink], code: str, done: Replayed, *, actor: Actor, now: datetime
) -> None:
    """Store these; by halves when PostgreSQL will not have them, until the bad one is found, which stays."""
    if not letters:
        return
    try:
        _store_with_retries(letters, code, done, actor=actor, now=now)
    except OperationalError:
        raise
    except DatabaseError as error:
        if len(letters) == 1:
            log.error("replay_refused", topic=code, reason=str(error).strip())
            done.refused["db_reject"] += 1
            return
        keys = list(letters)
        for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
            _take({key: letters[key] for key in half}, code, done, actor=actor, now=now)


def _store_with_retries(
    letters: dict[tuple[datetime, int], Uplink], code: str, done: Replayed, *, actor: Actor, now: datetime
) -> None:
    """As `_store`; a deadlock with a gateway at work is no reason to give up."""
    for tries_left in reversed(range(TRIES)):
        try:
            return _store(letters, code, done, actor=actor, now=now)
        except OperationalError:
            if not tries_left:
                raise
            connection.close_if_unusable_or_obsolete()


def _store(
    letters: dict[tuple[datetime, int], Uplink], code: str, done: Replayed, *, actor: Actor, now: datetime
) -> None:
    from ota import reports  # the top layer may look down; as in the gateway's handlers

    ingest.ensure_partitions(_deliveries(letters.values()))  # before: a new one is locked until the commit
    with transaction.atomic():
        mine = _claim(list(letters))
        if not mine:
            return
        uplinks = [letters[key] for key in mine]
        stored = ingest.store(_deliveries(uplinks), slot=SLOT, now=now, expects_repeats=True)
        sent = [(one.device_id, one.content) for one in uplinks if isinstance(one.content, Event)]
        fresh = timeline.record_events(sent, now=now)
        for device_id, event in fresh:
            reports.apply_event(device_id, event, now=now)
        audit.record(
            actor=actor,
            verb="telemetry.replay",
            subject_kind="telemetry",
            subject_id=code,
            at=now,
            after={"letters": len(mine), "windows": stored.windows, "events": len(fresh)},
        )
    done.add(len(mine), stored, len(fresh))


def _claim(keys: Sequence[tuple[datetime, int]]) -> list[tuple[datetime, int]]:
    """Delete these letters; those that were still there, which are this transaction's to store."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM tele_dead d USING unnest(%s::timestamptz[], %s::bigint[]) AS k (at, id)"
            " WHERE d.at = k.at AND d.id = k.id RETURNING d.at, d.id",
            [[at for at, _ in keys], [number for _, number in keys]],
        )
        return sorted(cursor.fetchall())


def _deliveries(uplinks: Collection[Uplink]) -> list[Delivery]:
    return [Delivery(one.device_id, one.content) for one in uplinks if isinstance(one.content, Batch)]
