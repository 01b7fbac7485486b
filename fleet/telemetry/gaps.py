"""Gaps in what devices sent: found, explained, given up; each minute, in bounded steps.

Ingest notes which counters of a boot have arrived (`boots.py`) and since when something is missing. What is
missing for GRACE becomes a gap. `ota.resend` asks the device for it, twice at most; then the records arrive
and the gap is `repaired`, or it is `lost` with a cause:

    ring_full     the device says it had to overwrite records that no broker had acknowledged
    not_held      the device says its ring does not hold them any more
    rebooted      the boot is over, and its ring with it
    retired       the device was retired
    no_answer     asked twice, and nothing came
    not_back      the device was not there to be asked for GIVE_UP
    scattered     more than MOST_RANGES ranges of one boot are missing: counted, not named
    others        the code under which an authentic batch was refused (`dead.CODES`), or `device_<number>`

A device that is offline is asked when it is back, and a gap at the end of what it sent shows with its next
record. Records that arrive after all make a lost gap repaired. The good case costs a look at an empty index.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db import connection, transaction

from fleet.telemetry import gap_evidence, gap_ranges, gap_times
from fleet.telemetry.gap_evidence import Key
from fleet.telemetry.gap_models import GAP_PENDING, GapState
from fleet.telemetry.gap_ranges import MOST_RANGES, SCATTERED, Piece, Range

GRACE: Final = timedelta(seconds=60)
"""What is missing for so long is a gap: batches overtake each other for less."""
RETRY: Final = timedelta(minutes=2)
"""Least time between two commands to a device, and how long the last one has to be answered."""
TRIES: Final = 2
GIVE_UP: Final = timedelta(days=7)
BOOTS: Final = 500
"""Boots or gaps that one step takes."""
STEPS: Final = 40
"""Steps of each kind that a turn takes at most; the next turn goes on."""
KEEP: Final = timedelta(days=90)
FORGET: Final = 5_000
NO_ANSWER: Final = "no_answer"
NOT_BACK: Final = "not_back"
_LOCK: Final = 0x7E1E_0004
_PENDING: Final = f"state IN ('{GapState.OPEN}', '{GapState.ASKED}')"
_PIECE: Final = "id, first, last, state, cause, tries, command, found_at, asked_at"


@dataclass(frozen=True)
class Turn:
    """What one turn did, in gaps: found, repaired, lost."""

    found: int = 0
    repaired: int = 0
    lost: int = 0

    def __add__(self, other: "Turn") -> "Turn":
        return Turn(self.found + other.found, self.repaired + other.repaired, self.lost + other.lost)


def run(now: datetime, *, installation_id: bytes, grace: timedelta = GRACE) -> Turn:
    """Bring the gaps up to date; returns what changed. Safe to call from many workers.

    installation_id: to open refused batches with. grace: for tests and drills. Raises django.db.Error; steps
    that were done stay done.
    """
    done = Turn()
    for _ in range(STEPS):
        boots, turn = _locked(partial(_settle, now - grace, now))
        done += turn
        if boots < BOOTS:
            break
    after = 0
    for _ in range(STEPS):
        after, turn = _locked(partial(_explain, after, now, installation_id))
        done += turn
        if not after:
            break
    for _ in range(STEPS):
        if gap_times.place() < gap_times.STEP:
            break
    return done + Turn(lost=_give_up(now))


def _locked(step: Callable[[], tuple[int, Turn]]) -> tuple[int, Turn]:
    """A step in its own transaction; nothing while another worker is at one."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        (is_mine,) = cursor.fetchone()
        return step() if is_mine else (0, Turn())


def _settle(due: datetime, now: datetime) -> tuple[int, Turn]:
    """Compare boots that are unsettled since `due` or longer with their gaps. (boots seen, what changed)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_id, boot, highest, received, ("
            " SELECT coalesce(jsonb_agg(jsonb_build_array(lower(r), upper(r) - 1) ORDER BY r), '[]')::text"
            " FROM unnest(int8multirange(int8range(0, highest + 1)) - counters) r)"
            " FROM tele_boot WHERE unsettled_at <= %s ORDER BY unsettled_at LIMIT %s",
            [due, BOOTS],
        )
        boots = {
            (name, boot): (highest, received, [(first, last) for first, last in json.loads(missing)])
            for name, boot, highest, received, missing in cursor.fetchall()
        }
    known = _gaps_of(list(boots))
    changes: dict[Key, list[Piece]] = {}
    for key, (_, _, missing) in boots.items():
        is_named = len(missing) <= MOST_RANGES
        changes[key] = gap_ranges.settle(missing, known[key]) if is_named else []
    seen = {key: (highest, received) for key, (highest, received, _) in boots.items()}
    turn = Turn()
    written = {}
    for key in _claim(seen, changes):
        missing = boots[key][2]
        if len(missing) > MOST_RANGES:
            turn += _scatter(key, missing, known[key], now)
            continue
        turn += _count(known[key], changes[key])
        written[key] = known[key], changes[key]
    _write(written, now)
    return len(boots), turn


def _claim(seen: Mapping[Key, tuple[int, int]], changes: Mapping[Key, Sequence[Piece]]) -> list[Key]:
    """Settle those boots of which nothing arrived since they were read; the others stay for the next turn."""
    rows = [
        (*key, *seen[key], _multirange(p.range for p in pieces if p.state != GapState.REPAIRED))
        for key, pieces in sorted(changes.items())
    ]
    if not rows:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tele_boot AS t SET unsettled_at = NULL, filled = n.filled::int8multirange"
            " FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])"
            " AS n (device_id, boot, highest, received, filled)"
            " WHERE t.device_id = n.device_id AND t.boot = n.boot AND t.highest = n.highest"
            " AND t.received = n.received RETURNING t.device_id, t.boot",
            [list(column) for column in zip(*rows, strict=True)],
        )
        return sorted((name, boot) for name, boot in cursor.fetchall())


def _scatter(key: Key, missing: Sequence[Range], known: Sequence[Piece], now: datetime) -> Turn:
    """One row for what is missing in too many places; from now on the boot counts as complete so far.

    Holes cost ingest at every record of the boot, and one device must not be able to make it slow.
    """
    left = sum(last - first + 1 for first, last in missing)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM tele_gap WHERE id = ANY(%s)", [[gap.id for gap in known]])
        cursor.execute(
            "UPDATE tele_boot SET counters = int8multirange(int8range(0, highest + 1)), filled = '{}',"
            " scattered = scattered + %s WHERE device_id = %s AND boot = %s",
            [left, *key],
        )
        cursor.execute(
            "INSERT INTO tele_gap (device_id, boot, first, last, records, state, cause, found_at, closed_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [*key, missing[0][0], missing[-1][1], left, GapState.LOST, SCATTERED, now, now],
        )
    return Turn(found=1, lost=1)


def _explain(after: int, now: datetime, installation_id: bytes) -> tuple[int, Turn]:
    """Close pending gaps with a cause that is known. (last id seen or 0 at the end; what changed)."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT device_id, boot, {_PIECE} FROM tele_gap WHERE {_PENDING} AND id > %s"
            " ORDER BY id LIMIT %s",
            [after, BOOTS],
        )
        rows = cursor.fetchall()
    pending: dict[Key, list[Piece]] = defaultdict(list)
    for name, boot, *values in rows:
        pending[name, boot].append(Piece(*values))
    if not pending:
        return 0, Turn()
    since = min(piece.found_at for pieces in pending.values() for piece in pieces if piece.found_at)
    causes = gap_evidence.told(pending, since=since, installation_id=installation_id)
    turn = Turn()
    for key, said in causes.items():
        pieces = [part for gap in pending[key] for part in gap_ranges.lose(gap, said)]
        turn += _count(pending[key], pieces)
        _write({key: (pending[key], pieces)}, now)
    return (rows[-1][2] if len(rows) == BOOTS else 0), turn


def _give_up(now: datetime) -> int:
    """Pending gaps that were asked for in vain, or never could be. Returns how many are lost now."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tele_gap SET state = '{GapState.LOST}', closed_at = %(now)s,"
            f" cause = CASE WHEN tries >= {TRIES} THEN '{NO_ANSWER}' ELSE '{NOT_BACK}' END"
            f" WHERE {_PENDING} AND (tries >= {TRIES} AND asked_at <= %(retry)s OR found_at <= %(old)s)",
            {"now": now, "retry": now - RETRY, "old": now - GIVE_UP},
        )
        return int(cursor.rowcount)


def forget(now: datetime, *, keep: timedelta = KEEP, limit: int = FORGET) -> int:
    """Delete boots that are long over, then closed gaps of boots that are gone; returns how many rows.

    keep: since the last record of the boot, since the gap was closed. A device's newest boot stays: without
    it, its next record would make everything before it a gap.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM tele_boot WHERE (device_id, boot) IN (SELECT device_id, boot FROM tele_boot b"
            " WHERE heard_at < %s AND EXISTS (SELECT 1 FROM tele_boot n WHERE n.device_id = b.device_id"
            " AND n.boot > b.boot) LIMIT %s)",
            [now - keep, limit],
        )
        count = int(cursor.rowcount)
        cursor.execute(
            "DELETE FROM tele_gap WHERE id IN (SELECT id FROM tele_gap g WHERE closed_at < %s AND NOT EXISTS"
            " (SELECT 1 FROM tele_boot b WHERE b.device_id = g.device_id AND b.boot = g.boot) LIMIT %s)",
            [now - keep, limit],
        )
        return count + int(cursor.rowcount)


def _gaps_of(keys: Sequence[Key]) -> dict[Key, list[Piece]]:
    """Every gap of these boots that is not repaired."""
    found: dict[Key, list[Piece]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT g.device_id, g.boot, {_PIECE} FROM tele_gap g"
            " JOIN unnest(%s::text[], %s::bigint[]) AS k (d, b) ON k.d = g.device_id AND k.b = g.boot"
            f" WHERE g.state <> '{GapState.REPAIRED}' AND g.cause <> '{SCATTERED}' ORDER BY g.first",
            [[name for name, _ in keys], [boot for _, boot in keys]],
        )
        for name, boot, *values in cursor.fetchall():
            found[name, boot].append(Piece(*values))
    return found


def _write(changes: Mapping[Key, tuple[Sequence[Piece], Sequence[Piece]]], now: datetime) -> None:
    """Store gaps and their parts: the first part of a gap keeps its row, every other one gets its own."""
    updates: list[tuple[Any, ...]] = []
    inserts: list[tuple[Any, ...]] = []
    for (name, boot), (before, after) in sorted(changes.items()):
        old = {gap.id: gap for gap in before}
        seen: set[int] = set()
        for piece in after:
            closed = None if piece.state in GAP_PENDING else now
            span = piece.last - piece.first + 1
            if piece.id is not None and piece.id not in seen:
                seen.add(piece.id)
                if piece != old[piece.id]:
                    updates.append(
                        (piece.first, piece.last, span, piece.state, piece.cause, closed, piece.id)
                    )
            else:
                inserts.append(
                    (name, boot, piece.first, piece.last, span, piece.state, piece.cause, piece.tries,
                     piece.command, piece.found_at or now, piece.asked_at, closed)
                )  # fmt: skip
    with connection.cursor() as cursor:
        if updates:
            cursor.executemany(
                "UPDATE tele_gap SET first = %s, last = %s, records = %s, state = %s, cause = %s,"
                " closed_at = %s WHERE id = %s",
                updates,
            )
        if inserts:
            cursor.executemany(
                "INSERT INTO tele_gap (device_id, boot, first, last, records, state, cause, tries, command,"
                " found_at, asked_at, closed_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                inserts,
            )


def _count(before: Sequence[Piece], after: Sequence[Piece]) -> Turn:
    states = {gap.id: gap.state for gap in before}
    changed = [piece for piece in after if piece.state != states.get(piece.id)]
    return Turn(
        sum(piece.id is None for piece in after),
        sum(piece.state == GapState.REPAIRED for piece in changed),
        sum(piece.state == GapState.LOST for piece in changed),
    )


def _multirange(ranges: Any) -> str:
    return "{" + ",".join(f"[{first},{last}]" for first, last in ranges) + "}"
