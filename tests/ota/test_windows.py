"""Maintenance windows: what parses, when they are open, over midnight, weeks and clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota import windows
from ota.plan_parts import PlanError
from ota.windows import WEEKDAYS, Window

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia",
    "America/Sao_Paulo", "Africa/Casablanca",
)  # fmt: skip
days = st.sets(st.integers(0, 6), min_size=1).map(lambda found: tuple(sorted(found)))
some = st.builds(
    Window, days, st.integers(0, 1439), st.integers(1, 1440), st.sampled_from((*ZONES, "device"))
)
times = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)).map(lambda at: at.replace(tzinfo=UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def one(start: str, minutes: int, tz: str = "UTC", on: tuple[str, ...] = WEEKDAYS) -> tuple[Window, ...]:
    return windows.parse([{"weekdays": list(on), "at": start, "minutes": minutes, "tz": tz}])


@given(st.lists(some, max_size=4))
def test_what_is_written_is_read_back(found: list[Window]) -> None:
    assert windows.parse([window.to_json() for window in found]) == tuple(found)


@pytest.mark.parametrize(
    ("value", "code", "field"),
    [
        ("mon", "validation", "windows"),
        ([{"at": "22:00", "minutes": 60}] * 11, "validation", "windows"),
        (["mon"], "validation", "windows[0]"),
        ([{"at": "22:00"}], "validation", "windows[0]"),
        ([{"at": "22:00", "minutes": 60, "on": "mon"}], "validation", "windows[0]"),
        ([{"at": "24:00", "minutes": 60}], "validation", "windows[0].at"),
        ([{"at": "9:00", "minutes": 60}], "validation", "windows[0].at"),
        ([{"at": 900, "minutes": 60}], "validation", "windows[0].at"),
        ([{"at": "22:00", "minutes": 1441}], "validation", "windows[0].minutes"),
        ([{"at": "22:00", "minutes": 1.5}], "validation", "windows[0].minutes"),
        ([{"at": "22:00", "minutes": True}], "validation", "windows[0].minutes"),
        ([{"at": "22:00", "minutes": 60, "tz": "Mars/Phobos"}], "validation", "windows[0].tz"),
        ([{"at": "22:00", "minutes": 60, "tz": "../etc/passwd"}], "validation", "windows[0].tz"),
        ([{"at": "22:00", "minutes": 60, "tz": "localtime"}], "validation", "windows[0].tz"),
        ([{"at": "22:00", "minutes": 60, "tz": "Europe"}], "validation", "windows[0].tz"),
        ([{"at": "22:00", "minutes": 60, "weekdays": ["monday"]}], "validation", "windows[0].weekdays"),
        ([{"at": "22:00", "minutes": 60, "weekdays": [[]]}], "validation", "windows[0].weekdays"),
        ([{"at": "22:00", "minutes": 60, "weekdays": []}], "window_never_opens", "windows[0]"),
        ([{"at": "22:00", "minutes": 0}], "window_never_opens", "windows[0]"),
    ],
)
def test_what_is_no_window_is_refused_by_field(value: Any, code: str, field: str) -> None:
    with pytest.raises(PlanError) as refused:
        windows.parse(value)
    assert (refused.value.code, refused.value.field) == (code, field)


def test_no_windows_are_always_open() -> None:
    now = at("2026-05-02T12:00")
    assert windows.parse([]) == ()
    assert windows.is_open((), now)
    assert windows.opens_at((), now) == now


@settings(max_examples=200)
@given(st.lists(some, min_size=1, max_size=3), times, st.sampled_from(ZONES))
def test_next_opening_is_the_first_moment_that_is_open(found: list[Window], now: datetime, zone: str) -> None:
    opens = windows.opens_at(found, now, zone)
    assert windows.is_open(found, opens, zone)
    assert now <= opens <= now + timedelta(days=8)
    if opens > now:
        assert not windows.is_open(found, now, zone)
        assert not windows.is_open(found, opens - timedelta(seconds=1), zone)
        for share in (0.25, 0.5, 0.75):
            assert not windows.is_open(found, now + share * (opens - now), zone)


@settings(max_examples=200)
@given(some, times, st.sampled_from(ZONES))
def test_a_window_opens_once_on_each_of_its_local_days_for_its_minutes(
    window: Window, now: datetime, zone: str
) -> None:
    opening = windows.following([window], now, zone)
    local = opening.opens.astimezone(window.zone(zone))
    assert opening.day.weekday() in window.weekdays
    assert opening.closes - opening.opens == timedelta(minutes=window.minutes)
    offset = local.utcoffset() or timedelta()
    before = (local - timedelta(days=1)).utcoffset() or timedelta()
    # as the wall clock says, unless a clock change skipped that time: then later by the change
    said = timedelta(hours=local.hour, minutes=local.minute) - timedelta(minutes=window.start_min)
    assert said == timedelta() or said in (offset - before, offset - before - timedelta(days=1))
    nxt = windows.following([window], opening.opens, zone)
    assert nxt.day > opening.day, "never twice on one day"


@settings(max_examples=200)
@given(some, times, st.sampled_from(ZONES))
def test_the_device_opens_when_the_server_does(window: Window, now: datetime, zone: str) -> None:
    """The device's rule (checks.c in_window) over [mask, start, minutes] agrees for the opening it is for."""
    mask, start, minutes = windows.device_window([window], now, zone)
    assert (1 <= mask <= 127, 0 <= start <= 1439, 1 <= minutes <= 1440) == (True, True, True)
    assert mask.bit_count() == len(window.weekdays)
    item = windows.present([window], now, zone) or windows.following([window], now, zone)
    assert device_is_in(mask, start, minutes, item.opens)
    assert device_is_in(mask, start, minutes, item.closes - timedelta(seconds=1))
    if windows.present([window], now, zone):
        assert device_is_in(mask, start, minutes, now)


def device_is_in(mask: int, start: int, minutes: int, now: datetime) -> bool:
    for back in (0, 1):
        since = now.hour * 60 + now.minute + 1440 * back
        if mask >> (now.weekday() - back) % 7 & 1 and 0 <= since - start < minutes:
            return True
    return False


def test_a_window_crosses_midnight_and_the_week() -> None:
    night = one("22:00", 240, on=("sun",))
    assert windows.is_open(night, at("2026-05-03T22:00"))  # a Sunday
    assert windows.is_open(night, at("2026-05-04T01:59:59"))  # its Monday morning
    assert not windows.is_open(night, at("2026-05-04T02:00"))
    assert not windows.is_open(night, at("2026-05-04T22:00"))
    assert windows.opens_at(night, at("2026-05-04T02:00")) == at("2026-05-10T22:00")


def test_a_skipped_hour_opens_once_and_a_repeated_one_too() -> None:
    early = one("02:30", 60, "Europe/Berlin")
    spring = windows.following(early, at("2026-03-29T00:00"))  # 02:30 does not exist that night
    assert spring.opens == at("2026-03-29T01:30")  # 03:30 summer time
    assert windows.following(early, spring.opens).opens == at("2026-03-30T00:30")
    autumn = windows.following(early, at("2026-10-25T00:00"))  # 02:30 comes twice
    assert autumn.opens == at("2026-10-25T00:30")
    assert not windows.is_open(early, at("2026-10-25T01:30"))  # the second one


def test_a_clock_change_inside_a_window_leaves_its_length() -> None:
    night = one("22:00", 480, "Europe/Berlin")
    item = windows.present(night, at("2026-03-28T23:00"))
    assert item is not None
    assert (item.opens, item.closes) == (at("2026-03-28T21:00"), at("2026-03-29T05:00"))
    assert item.closes.astimezone(ZoneInfo("Europe/Berlin")).hour == 7


def test_the_zone_of_the_device_counts_and_a_wrong_one_is_utc() -> None:
    night = one("02:00", 60, "device")
    now = at("2026-06-01T00:30")
    assert windows.is_open(night, now, "Europe/Berlin")
    assert not windows.is_open(night, now, "UTC")
    for nothing in ("", "Mars/Phobos", "../../etc/localtime", "x" * 200):
        assert windows.zone_of(nothing) == ZoneInfo("UTC")
        assert windows.opens_at(night, now, nothing) == at("2026-06-01T02:00")


def test_the_device_gets_days_of_utc() -> None:
    night = one("00:30", 60, "Asia/Kathmandu", ("mon", "fri"))  # 18:45 UTC of the day before
    assert windows.device_window(night, at("2026-05-04T00:00")) == (1 << 6 | 1 << 3, 18 * 60 + 45, 60)
    both = windows.parse([{"at": "01:00", "minutes": 60}, {"at": "05:00", "minutes": 30}])
    assert windows.device_window(both, at("2026-05-04T01:30")) == (127, 60, 60)
    assert windows.device_window(both, at("2026-05-04T02:30")) == (127, 300, 30)


def test_open_time_is_counted_once() -> None:
    two = windows.parse([{"at": "01:00", "minutes": 60}, {"at": "01:30", "minutes": 60}])
    since = at("2026-05-04T00:00")
    assert windows.open_s(two, since, since + timedelta(days=2)) == 2 * 90 * 60
    assert windows.open_s(two, since, at("2026-05-04T01:10")) == 600
    assert windows.open_s((), since, since + timedelta(hours=1)) == 3600
    assert windows.open_s(two, at("2026-05-04T02:10"), at("2026-05-04T02:40")) == 20 * 60
