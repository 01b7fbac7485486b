"""Places of the long answers of a web process."""

from __future__ import annotations

import pytest

from fleet.long_answers import BusyError, Places


def test_there_are_so_many_places_and_one_that_is_left_is_free() -> None:
    places = Places(most=2, idle_s=60)
    first, _second = places.take(0.0), places.take(0.0)
    with pytest.raises(BusyError, match="contended"):
        places.take(1.0)
    places.leave(first)
    places.leave(first)
    places.take(1.0)
    with pytest.raises(BusyError):
        places.take(1.0)


def test_who_goes_on_keeps_a_place_and_who_does_not_is_cut() -> None:
    places = Places(most=2, idle_s=60)
    read, stuck = places.take(0.0), places.take(0.0)
    for now in (50.0, 100.0):
        places.go_on(read, now)
    places.take(100.0)
    with pytest.raises(BusyError):
        places.take(100.0)
    places.go_on(read, 101.0)
    with pytest.raises(TimeoutError, match="60 s"):
        places.go_on(stuck, 101.0)


def test_a_file_that_was_not_read_for_too_long_is_cut_even_if_nobody_wanted_its_place() -> None:
    places = Places(most=2, idle_s=60)
    stuck = places.take(0.0)
    with pytest.raises(TimeoutError):
        places.go_on(stuck, 61.0)
    with pytest.raises(TimeoutError):
        places.go_on(stuck, 61.0)
