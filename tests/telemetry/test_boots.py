"""What arrived of each boot is put together before the database is told."""

from __future__ import annotations

import itertools
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from fleet.telemetry.boots import merged_ranges
from tests.conftest import NOW
from tests.telemetry.batches import make_batch

spans = st.tuples(st.sampled_from(["a", "ab", "b"]), st.integers(1, 2), st.integers(0, 30), st.integers(1, 8))


@given(sent=st.lists(spans, min_size=1, max_size=12))
def test_ranges_hold_every_counter_that_came_and_no_other_in_key_order(
    sent: list[tuple[str, int, int, int]],
) -> None:
    batches = [
        (device, make_batch(NOW - timedelta(hours=1), n, boot=boot, first=first))
        for device, boot, first, n in sent
    ]
    found = merged_ranges(batches)
    came = {(device, boot, first + k) for device, boot, first, n in sent for k in range(n)}
    assert [(device, boot, k) for device, boot, first, end in found for k in range(first, end)] == sorted(
        came
    )
    for before, after in itertools.pairwise(found):
        assert before[:2] != after[:2] or before[3] < after[2]  # what touches is one range
