"""Maintenance windows: when devices may be offered a model. Pure calendar arithmetic, no clock, no database.

A window opens on its weekdays at a local wall time and stays open for a number of minutes of real time. Its
zone is UTC, an IANA name, or `device`: the zone that each device says in its attribute `tz`, UTC where that
is absent or no zone. It opens exactly once on each of its days: a wall time that a clock change repeats is
the first of the two, one that it skips is as long after midnight as the clock would have shown without the
change. A window that crosses midnight belongs to the day it begins on, as on the device (SPEC.md, config
key 6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from fleet.devices.time_zones import find
from ota.plan_parts import PlanError, read_number

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DEVICE: Final = "device"
MAX_WINDOWS: Final = 10
DAY_MIN: Final = 1_440
LONGEST_LOOK_BACK: Final = timedelta(days=400)
_AT = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


@dataclass(frozen=True)
class Window:
    """weekdays: 0 is Monday, rising. start_min: minutes after local midnight. minutes: 1 to 1,440, real time.

    tz: `device`, `UTC` or an IANA name.
    """

    weekdays: tuple[int, ...]
    start_min: int
    minutes: int
    tz: str

    def to_json(self) -> dict[str, Any]:
        """As `parse` reads it."""
        return {
            "weekdays": [WEEKDAYS[day] for day in self.weekdays],
            "at": f"{self.start_min // 60:02d}:{self.start_min % 60:02d}",
            "minutes": self.minutes,
            "tz": self.tz,
        }

    def zone(self, device_zone: str) -> ZoneInfo:
        """The zone that counts for a device of this zone."""
        return zone_of(device_zone if self.tz == DEVICE else self.tz)


@dataclass(frozen=True)
class Occurrence:
    """One opening of a window. opens, closes: aware UTC, half open. day: the local day it begins on."""

    window: Window
    opens: datetime
    closes: datetime
    day: date


def parse(value: Any, name: str = "windows") -> tuple[Window, ...]:
    """Read `[{"weekdays": ["mon", ...], "at": "22:00", "minutes": 240, "tz": "device"}, ...]`.

    weekdays: every day when absent. tz: UTC when absent. [] is no restriction. Raises PlanError naming the
    field: `validation`, and `window_never_opens` for a window without a day or without a minute.
    """
    if not isinstance(value, list | tuple) or len(value) > MAX_WINDOWS:
        raise PlanError("validation", name, f"{name} is a list of at most {MAX_WINDOWS} windows")
    return tuple(_window(item, f"{name}[{index}]") for index, item in enumerate(value))


def is_zone(name: str) -> bool:
    """True for a name of the IANA database."""
    return find(name) is not None


def zone_of(name: str) -> ZoneInfo:
    """The zone of this name; UTC for one that is none: a device whose attribute was stored before it was
    checked, or by an older zone database, is not left out.
    """
    return find(name) or ZoneInfo("UTC")


def is_open(windows: Sequence[Window], now: datetime, device_zone: str = "UTC") -> bool:
    """True when a device of this zone may be offered something now. Without windows it always may."""
    return not windows or present(windows, now, device_zone) is not None


def present(windows: Sequence[Window], now: datetime, device_zone: str = "UTC") -> Occurrence | None:
    """The window that is open now; of several the one that closes last, None when none is."""
    found = [
        item
        for window in windows
        for item in _around(window, now, device_zone)
        if item.opens <= now < item.closes
    ]
    return max(found, key=lambda item: (item.closes, item.opens), default=None)


def following(windows: Sequence[Window], now: datetime, device_zone: str = "UTC") -> Occurrence:
    """The next window to open after now. Raises ValueError without windows: then nothing is ever closed."""
    later = (item for window in windows for item in _around(window, now, device_zone) if item.opens > now)
    return min(later, key=lambda item: (item.opens, item.closes))


def opens_at(windows: Sequence[Window], now: datetime, device_zone: str = "UTC") -> datetime:
    """When a device of this zone may next be offered something: now, or when its next window opens."""
    return now if is_open(windows, now, device_zone) else following(windows, now, device_zone).opens


def last_close(windows: Sequence[Window], now: datetime, device_zone: str = "UTC") -> datetime:
    """End of the next window that opens after now: until then at least an offer of now must live, because
    its device may have to wait for it.
    """
    return following(windows, now, device_zone).closes


def device_window(windows: Sequence[Window], now: datetime, device_zone: str = "UTC") -> tuple[int, int, int]:
    """Config key 6 for a device: [weekday mask, start minute UTC, minutes] of the window that is open now or
    opens next, with its weekdays turned into days of UTC.

    The device repeats it every week in UTC, so it is asked for again after a clock change.
    """
    item = present(windows, now, device_zone) or following(windows, now, device_zone)
    turn = item.opens.weekday() - item.day.weekday()
    mask = sum(1 << (day + turn) % 7 for day in item.window.weekdays)
    return mask, item.opens.hour * 60 + item.opens.minute, item.window.minutes


def open_s(windows: Sequence[Window], since: datetime, until: datetime, device_zone: str = "UTC") -> float:
    """Seconds between two times in which a window was open; all of them without windows.

    At most LONGEST_LOOK_BACK before `until` is looked at.
    """
    if not windows:
        return max(0.0, (until - since).total_seconds())
    since = max(since, until - LONGEST_LOOK_BACK)
    spans = sorted(
        (max(item.opens, since), min(item.closes, until))
        for window in windows
        for item in _between(window, since - timedelta(days=3), until + timedelta(days=1), device_zone)
        if item.opens < until and item.closes > since
    )
    total, end = 0.0, since
    for opens, closes in spans:
        total += max(0.0, (closes - max(opens, end)).total_seconds())
        end = max(end, closes)
    return total


def _around(window: Window, now: datetime, device_zone: str) -> Iterator[Occurrence]:
    """Every opening that may be open now, and at least the next one."""
    return _between(window, now - timedelta(days=3), now + timedelta(days=9), device_zone)


def _between(window: Window, since: datetime, until: datetime, device_zone: str) -> Iterator[Occurrence]:
    """Openings on the local days from `since` to `until`."""
    zone = window.zone(device_zone)
    day, last = since.astimezone(zone).date(), until.astimezone(zone).date()
    at = time(window.start_min // 60, window.start_min % 60)
    while day <= last:
        if day.weekday() in window.weekdays:
            opens = datetime.combine(day, at, tzinfo=zone).astimezone(UTC)
            yield Occurrence(window, opens, opens + timedelta(minutes=window.minutes), day)
        day += timedelta(days=1)


def _window(value: Any, name: str) -> Window:
    known = {"weekdays", "at", "minutes", "tz"}
    if not isinstance(value, Mapping) or set(value) - known or not {"at", "minutes"} <= set(value):
        text = f'{name} is {{"weekdays": ["mon"], "at": "22:00", "minutes": 240, "tz": "UTC"}}'
        raise PlanError("validation", name, text)
    at = _AT.fullmatch(value["at"]) if isinstance(value["at"], str) else None
    if at is None:
        raise PlanError("validation", f"{name}.at", f"{name}.at is a time of day as 22:00")
    tz = value.get("tz", "UTC")
    if not isinstance(tz, str) or (tz != DEVICE and not is_zone(tz)):
        raise PlanError("validation", f"{name}.tz", f"{name}.tz is device, UTC or a zone as Europe/Berlin")
    minutes = int(read_number(value["minutes"], f"{name}.minutes", 0, DAY_MIN, whole=True))
    days = _weekdays(value.get("weekdays", list(WEEKDAYS)), f"{name}.weekdays")
    if not minutes or not days:
        text = f"{name} has no {'day' if minutes else 'minute'} on which it is open"
        raise PlanError("window_never_opens", name, text, "leave windows out to allow every time")
    return Window(days, int(at[1]) * 60 + int(at[2]), minutes, tz)


def _weekdays(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > 7 or any(day not in WEEKDAYS for day in value):
        raise PlanError("validation", name, f"{name} is a list of {', '.join(WEEKDAYS)}")
    return tuple(sorted({WEEKDAYS.index(day) for day in value}))
