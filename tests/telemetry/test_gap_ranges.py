"""The arithmetic of gaps: whatever arrives or is told, each missing counter is in exactly one row."""

from hypothesis import given
from hypothesis import strategies as st

from fleet.telemetry.gap_models import GapState
from fleet.telemetry.gap_ranges import Piece, Range, common, lose, settle, without

COUNTERS = st.sets(st.integers(0, 40))
TOLD = st.lists(
    st.tuples(st.tuples(st.integers(0, 40), st.integers(0, 40)), st.sampled_from("ab")), max_size=5
)


def ranges(counters: set[int]) -> list[Range]:
    """Counters as rising ranges."""
    found: list[Range] = []
    for counter in sorted(counters):
        if found and found[-1][1] == counter - 1:
            found[-1] = found[-1][0], counter
        else:
            found.append((counter, counter))
    return found


def members(found: list[Range]) -> set[int]:
    return {counter for first, last in found for counter in range(first, last + 1)}


def in_state(pieces: list[Piece], *states: str) -> set[int]:
    return members([piece.range for piece in pieces if piece.state in states])


@given(COUNTERS, st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(lambda r: r[0] <= r[1]))
def test_parts_in_and_out_of_others_add_up(others: set[int], one: Range) -> None:
    inside, outside = common(one, ranges(others)), without(one, ranges(others))
    assert members(inside) == members([one]) & others
    assert members(outside) == members([one]) - others
    assert inside + outside == [] or sorted(inside + outside)[0][0] == one[0]


@given(st.lists(COUNTERS, min_size=1, max_size=6), TOLD)
def test_rows_say_exactly_what_is_missing_and_what_became_of_the_rest(
    looks: list[set[int]], told: list[tuple[Range, str]]
) -> None:
    rows: list[Piece] = []
    ever: set[int] = set()
    for number, missing in enumerate(looks):
        known = [row for row in rows if row.state != GapState.REPAIRED]
        done = [row for row in rows if row.state == GapState.REPAIRED]
        missing -= in_state(done, GapState.REPAIRED)  # what has arrived stays there
        ever |= missing
        rows = done + settle(ranges(missing), known)
        assert in_state(rows, GapState.OPEN, GapState.LOST) == missing
        assert in_state(rows, GapState.REPAIRED) == ever - missing
        assert sum(row.last - row.first + 1 for row in rows) == len(ever), "no counter is in two rows"
        if number % 2:
            rows = [part for row in rows for part in lose(row, told)]
            said = {c for (first, last), _ in told for c in range(first, last + 1)}
            assert said & missing <= in_state(rows, GapState.LOST) & missing
            assert all(row.cause in "ab" and row.cause for row in rows if row.state == GapState.LOST)


def test_the_first_cause_told_counts_and_the_rest_stays_open() -> None:
    pieces = lose(Piece(7, 10, 20), [((0, 12), "ring_full"), ((12, 15), "not_held")])
    assert [(p.first, p.last, p.state, p.cause) for p in pieces] == [
        (10, 12, "lost", "ring_full"),
        (13, 15, "lost", "not_held"),
        (16, 20, "open", ""),
    ]
