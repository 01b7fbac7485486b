"""The audit trail as a chain: what was written cannot be changed, removed or slipped in unseen.

Rows are written by many transactions at once, so a row cannot name the hash of the one before it without
making them all wait for each other. A worker seals instead: each minute it puts the hashes of the rows that
are older than LAG into one digest with the digest before. Ids are UUIDv7, so "older" is an order that is
fixed once the row is committed, and no transaction takes LAG.

Rows past retention leave with their seals (`fleet.accounts.audit_retention`). What is left of them is an
anchor: number, digest and last row of the last seal that left, from which the chain goes on. It is held to
the trail, which says what left, and to the next seal, whose digest is made of the anchor's.

Whoever may write to the database could make the whole chain anew; a digest that was noted elsewhere (each
seal is logged, and `manage.py audit verify` prints the last) shows that too.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from django.db import IntegrityError, transaction

from fleet.accounts.models import AuditAnchor, AuditEvent, AuditSeal
from fleet.ids import least_uuid7

log = structlog.get_logger(__name__)

LAG: Final = timedelta(minutes=10)
BATCH: Final = 10_000
"""Most rows of a seal."""
START: Final = uuid.UUID(int=0)
"""Before every row."""
FIELDS: Final = tuple(field.name for field in AuditEvent._meta.concrete_fields)
"""Columns of a row, as it is hashed and exported."""
PRUNED: Final = "audit.prune"
"""Verb of the row that tells what left."""
_SHORT: Final = 8


@dataclass(frozen=True)
class Broken:
    """The first place where the trail is not what was sealed.

    what: `altered` or `added` (row is its id), `missing` (row is the id before it, None = the first of the
    seal), `chain` (the seals themselves), `anchor` (where the chain begins is not what the trail says left).
    seal: its number.
    """

    seal: int
    what: str
    row: uuid.UUID | None = None


@dataclass(frozen=True)
class Place:
    """Up to where the chain was looked at. digest: of seal number `seals`; last: the newest row under it."""

    seals: int = 0
    rows: int = 0
    last: uuid.UUID = START
    digest: bytes = b""


@dataclass(frozen=True)
class Verified:
    """What a look at the whole chain found. seals: number of the last one, those that left included. rows:
    compared. digest: of the last seal, hex. unsealed: rows too young yet.
    """

    seals: int
    rows: int
    digest: str
    unsealed: int
    broken: Broken | None


def seal(now: datetime) -> int:
    """Seal what is older than LAG; returns how many rows. Two workers at once make no seal twice."""
    done = 0
    while True:
        before = AuditSeal.objects.order_by("-n").first()
        rows = _rows(before.last_id if before else START, least_uuid7(now - LAG), BATCH)
        hashes = [(row_id, digest) for row_id, digest in rows]
        if not hashes:
            return done
        link = _link(bytes(before.digest) if before else b"", (digest for _, digest in hashes))
        made = AuditSeal(
            n=before.n + 1 if before else 1,
            at=now,
            last_id=hashes[-1][0],
            count=len(hashes),
            row_hashes=b"".join(digest[:_SHORT] for _, digest in hashes),
            digest=link,
        )
        try:
            with transaction.atomic():
                made.save(force_insert=True)
        except IntegrityError:  # another worker was quicker
            return done
        log.info("audit_sealed", seal=made.n, rows=made.count, digest=link.hex())
        done += made.count


def verify(told: Callable[[int], None] = lambda _rows: None) -> Verified:
    """Compare every sealed row with its seal, up to the first that differs. told: rows looked at so far.

    One seal's rows are in memory at a time.
    """
    place, broken = Place(), None
    for reached in walk(Place()):
        place, broken = reached
        told(place.rows)
    younger = unsealed(place) if broken is None else 0
    return Verified(place.seals, place.rows, place.digest.hex(), younger, broken)


def walk(place: Place) -> Iterator[tuple[Place, Broken | None]]:
    """Compare seal after seal behind `place` with its rows; each turn gives how far the trail is as written.
    The first place that is not ends the walk.

    A walk that begins before the anchor begins at it, and looks at the anchor first. Rows that leave while
    they are compared are no breach: the walk goes on behind them.
    """
    while True:
        start = begin()
        if place.seals <= start.seals:
            place = Place(start.seals, place.rows, start.last, start.digest)
            broken = _wrong_anchor()
            if broken is not None and begin().seals > start.seals:
                continue  # rows left between one statement of that look and the next
            if broken is not None:
                yield place, broken
                return
        for one in AuditSeal.objects.filter(n__gt=place.seals).order_by("n").iterator(chunk_size=20):
            broken = _compared(one, place)
            if broken is not None:
                break
            place = Place(one.n, place.rows + one.count, one.last_id, bytes(one.digest))
            yield place, None
        else:
            return
        if begin().seals <= place.seals:
            yield place, broken
            return


def begin() -> Place:
    """Where the chain begins: at the anchor of what has left, or at the first row."""
    found = AuditAnchor.objects.order_by("-n").first()
    return Place() if found is None else Place(found.n, 0, found.last_id, bytes(found.digest))


def place_of(n: int) -> Place | None:
    """Behind seal number n, taken at its word: 0 is the start, one that has left is where the chain begins,
    None when there is no such seal yet.
    """
    if n == 0:
        return Place()
    one = AuditSeal.objects.filter(n=n).first()
    if one is not None:
        return Place(one.n, 0, one.last_id, bytes(one.digest))
    start = begin()  # looked up last: it covers a seal that left in this moment
    return start if n <= start.seals else None


def is_last(place: Place) -> bool:
    """True when no seal is behind it."""
    return not AuditSeal.objects.filter(n__gt=place.seals).exists()


def unsealed(place: Place) -> int:
    """How many rows are behind it."""
    return AuditEvent.objects.filter(id__gt=place.last).count()


def is_in_chain(digest: str) -> bool:
    """True when a seal has this digest (hex), which somebody noted earlier, or the last that left had."""
    try:
        noted = bytes.fromhex(digest)
    except ValueError:
        return False
    # In this order: a seal that leaves in between is the anchor then.
    return AuditSeal.objects.filter(digest=noted).exists() or noted == begin().digest != b""


def export(start: datetime | None, end: datetime | None) -> Iterator[dict[str, Any]]:
    """Rows from start until before end, None = all, oldest first, as the chain hashes them: JSON types."""
    rows = AuditEvent.objects.order_by("id")
    rows = rows.filter(at__gte=start) if start else rows
    rows = rows.filter(at__lt=end) if end else rows
    for row in rows.values(*FIELDS).iterator(chunk_size=2_000):
        yield said(row)


def _compared(one: AuditSeal, place: Place) -> Broken | None:
    """What is wrong with the seal behind `place`, or with its rows."""
    if one.n != place.seals + 1:
        return Broken(one.n, "chain")
    found = list(_rows(place.last, None, None, up_to=one.last_id))
    if _link(place.digest, (row for _, row in found)) != bytes(one.digest):
        return _difference(one, found)
    return None


def _wrong_anchor() -> Broken | None:
    """What is wrong with the place where the chain begins: it is not the one the trail tells of, or there is
    still something before it.
    """
    anchors = list(AuditAnchor.objects.order_by("n"))
    told = AuditEvent.objects.exclude(subject_kind="job").filter(verb=PRUNED).order_by("-id").first()
    if not anchors and told is None:
        return None
    if len(anchors) != 1 or told is None or told.after != anchor_told(anchors[0]):
        return Broken(anchors[-1].n if anchors else 1, "anchor")
    (anchor,) = anchors
    early = (
        AuditEvent.objects.filter(id__lte=anchor.last_id).order_by("id").values_list("id", flat=True).first()
    )
    if early is not None:
        return Broken(anchor.n, "added", early)
    return Broken(anchor.n, "chain") if AuditSeal.objects.filter(n__lte=anchor.n).exists() else None


def anchor_told(anchor: AuditAnchor) -> dict[str, Any]:
    """What the trail says of an anchor, in the row that the same transaction writes."""
    return {
        "seal": anchor.n,
        "last_row": str(anchor.last_id),
        "rows": anchor.rows,
        "digest": bytes(anchor.digest).hex(),
    }


def _difference(one: AuditSeal, found: list[tuple[uuid.UUID, bytes]]) -> Broken:
    kept = bytes(one.row_hashes)
    wanted = [kept[i : i + _SHORT] for i in range(0, len(kept), _SHORT)]
    known = set(wanted)
    for index, (row_id, digest) in enumerate(found):
        if index < len(wanted) and digest[:_SHORT] == wanted[index]:
            continue
        if digest[:_SHORT] in known:  # a later row's place: one before it is gone
            return Broken(one.n, "missing", found[index - 1][0] if index else None)
        return Broken(one.n, "added" if len(found) > len(wanted) else "altered", row_id)
    if len(found) < len(wanted):
        return Broken(one.n, "missing", found[-1][0] if found else None)
    return Broken(one.n, "chain")


def _link(before: bytes, hashes: Iterator[bytes]) -> bytes:
    link = hashlib.sha256(before)
    for digest in hashes:
        link.update(digest)
    return link.digest()


def _rows(
    after: uuid.UUID, before: uuid.UUID | None, most: int | None, *, up_to: uuid.UUID | None = None
) -> Iterator[tuple[uuid.UUID, bytes]]:
    """(id, hash) of rows in the order of their ids."""
    rows = AuditEvent.objects.filter(id__gt=after).order_by("id")
    if before is not None:
        rows = rows.filter(id__lt=before)
    if up_to is not None:
        rows = rows.filter(id__lte=up_to)
    for row in rows[:most].values(*FIELDS).iterator(chunk_size=2_000):
        yield row["id"], _hash(row)


def _hash(row: dict[str, Any]) -> bytes:
    text = json.dumps(said(row), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()


def said(row: dict[str, Any]) -> dict[str, Any]:
    """A row's columns as JSON types, exactly as they are hashed."""
    return row | {"id": str(row["id"]), "at": row["at"].astimezone(UTC).isoformat(timespec="microseconds")}
