"""Identifiers of rows come in the order in which they were made."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from fleet.ids import uuid7


def test_ids_of_one_process_rise_however_fast_they_are_made() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: [uuid7() for _ in range(2_000)], range(4)))
    assert all(part == sorted(part) for part in parts)
    assert len({one for part in parts for one in part}) == 8_000


def test_an_id_is_a_uuid_of_version_7_of_its_time() -> None:
    before = time.time_ns() // 1_000_000
    one = uuid7()
    assert (one.version, one.variant) == (7, uuid.RFC_4122)
    assert before <= one.int >> 80 <= time.time_ns() // 1_000_000 + 5
