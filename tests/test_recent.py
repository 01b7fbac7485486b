"""Figures that are kept for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import caches

from fleet.recent import KEPT_S, _release, recent
from tests.conftest import NOW
from tests.stack.services import wait_until


@pytest.fixture(autouse=True)
def slow(redis_url: str, django_db_modify_db_settings: None, settings: Any) -> Iterator[None]:
    settings.SLOW_COUNT_S = 0
    yield
    caches["default"].clear()


class Counter:
    """Counts how often it was asked, and gives that."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, at: datetime) -> int:
        self.n += 1
        return self.n


def test_a_figure_is_counted_once_within_its_moment() -> None:
    count = Counter()
    assert recent("once", count, now=NOW) == (1, NOW)
    assert recent("once", count, now=NOW + timedelta(seconds=2)) == (1, NOW)
    assert recent("another", count, now=NOW) == (2, NOW)


@pytest.mark.django_db(transaction=True)
def test_an_older_one_is_given_once_more_and_counted_beside() -> None:
    count = Counter()
    later = NOW + timedelta(seconds=3)
    recent("older", count, now=NOW)
    assert recent("older", count, now=later) == (1, NOW)
    wait_until(lambda: recent("older", count, now=NOW)[0] == 2, what="the newer count")
    assert count.n == 2


def test_what_was_counted_fast_is_not_kept(settings: Any) -> None:
    settings.SLOW_COUNT_S = 3_600
    count = Counter()
    assert [recent("fast", count, now=NOW)[0] for _ in range(3)] == [1, 2, 3]


def test_what_another_release_counted_is_not_read(settings: Any, tmp_path: Path) -> None:
    """It may have another form: kept figures are objects of ours."""
    count = Counter()
    recent("release", count, now=NOW)
    (tmp_path / "ota").mkdir()
    (tmp_path / "ota" / "live.py").write_text("# another release\n")
    settings.BASE_DIR = tmp_path
    _release.cache_clear()
    try:
        assert recent("release", count, now=NOW) == (2, NOW)
    finally:
        _release.cache_clear()


def test_a_count_that_fails_fails_whoever_asked_and_is_not_kept() -> None:
    def fail(at: datetime) -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        recent("failing", fail, now=NOW)
    assert recent("failing", lambda at: 7, now=NOW, kept_s=KEPT_S) == (7, NOW)
