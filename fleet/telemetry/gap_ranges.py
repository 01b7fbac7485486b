"""What becomes of a boot's gaps when records arrive or a cause is told: ranges in, rows out; no database.

Ranges are (first, last), both in it. The gaps of a boot never overlap, and what happens to a part of a gap
parts it: so each counter that was ever found missing is in exactly one row, and rows add up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from fleet.telemetry.gap_models import GAP_PENDING, GapState

Range = tuple[int, int]
SCATTERED: Final = "scattered"
MOST_RANGES: Final = 500
"""Missing ranges of a boot that are named one by one. More come from no network but from a faulty or hostile
device, and are one row.
"""


@dataclass(frozen=True)
class Piece:
    """A gap, or a part of one. id: of the row it is or was a part of, None for one that was just found."""

    id: int | None
    first: int
    last: int
    state: str = GapState.OPEN
    cause: str = ""
    tries: int = 0
    command: int = 0
    found_at: datetime | None = None
    asked_at: datetime | None = None

    @property
    def range(self) -> Range:
        """Its first and last counter."""
        return self.first, self.last


def common(one: Range, others: Iterable[Range]) -> list[Range]:
    """The parts of a range that lie in any of `others`, which do not overlap, rising."""
    parts = ((max(one[0], other[0]), min(one[1], other[1])) for other in others)
    return sorted(part for part in parts if part[0] <= part[1])


def without(one: Range, others: Iterable[Range]) -> list[Range]:
    """The parts of a range that lie in none of `others`, rising."""
    left, at = [], one[0]
    for first, last in sorted(others):
        if last < at or first > one[1]:
            continue
        if first > at:
            left.append((at, first - 1))
        at = last + 1
    return [*left, (at, one[1])] if at <= one[1] else left


def settle(missing: Sequence[Range], known: Sequence[Piece]) -> list[Piece]:
    """The gaps of a boot as they are now, with those that changed and those that were just found.

    missing: every range whose records have not arrived. known: the boot's gaps that are not repaired. What
    is not missing any more becomes repaired, a lost record that arrived after all too.
    """
    found: list[Piece] = []
    for gap in known:
        found += _cut(gap, common(gap.range, missing), state=gap.state, cause=gap.cause)
        found += _cut(gap, without(gap.range, missing), state=GapState.REPAIRED, cause="")
    ranges = [gap.range for gap in known]
    for one in missing:
        found += [Piece(None, *part) for part in without(one, ranges)]
    return sorted(found, key=lambda piece: piece.first)


def lose(gap: Piece, told: Sequence[tuple[Range, str]]) -> list[Piece]:
    """A pending gap in parts: those with a cause are lost, the rest stays. The first cause told counts."""
    pieces = [gap]
    for one, cause in told:
        after: list[Piece] = []
        for piece in pieces:
            if piece.state not in GAP_PENDING:
                after.append(piece)
                continue
            after += _cut(piece, common(piece.range, [one]), state=GapState.LOST, cause=cause)
            after += _cut(piece, without(piece.range, [one]), state=piece.state, cause=piece.cause)
        pieces = after
    return sorted(pieces, key=lambda piece: piece.first)


def _cut(gap: Piece, parts: Iterable[Range], *, state: str, cause: str) -> list[Piece]:
    return [replace(gap, first=first, last=last, state=state, cause=cause) for first, last in parts]
