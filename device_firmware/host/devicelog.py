"""The virtual devices' log: one JSON line an event, with the core's numbers turned into names.

The core logs numbers only (`enum fc_log` in fleet_core/codes.h). Warnings and changes of state are
printed, the
rest is left out.
"""

import enum
import json
import os
from typing import Any

from device_firmware.host.core import CODE_NAMES, Area, Reset, State

WARNING = 2


class LogEvent(enum.IntEnum):
    """Numbers of the core's log lines: `enum fc_log`."""

    BOOT = 1
    STATE = 2
    REFUSAL = 3
    DROPPED = 4
    RECORD = 5
    FLASH = 6
    TRUST = 7
    DESIRED = 8
    COMMAND = 9
    SELFTEST = 10
    SEGMENT = 11
    SAFE_MODE = 12


_QUIET = frozenset({LogEvent.DROPPED, LogEvent.RECORD, LogEvent.DESIRED})


def describe(level: int, event: int, a: int, b: int) -> tuple[str, dict[str, Any]] | None:
    """Name and fields of a core's log line; None for one that is not worth printing.

    Numbers that this table does not know are printed as they are: a newer core must not lose its warnings.
    """
    try:
        kind = LogEvent(event)
    except ValueError:
        return f"core_{event}", {"level": level, "a": a, "b": b}
    if level < WARNING and kind in _QUIET:
        return None
    match kind:
        case LogEvent.BOOT:
            fields: dict[str, Any] = {"reason": _name(Reset, a), "record": b}
        case LogEvent.STATE:
            fields = {"slot": a >> 8, "state": _name(State, a & 0xFF), "code": _code(b)}
        case LogEvent.REFUSAL:
            fields = {"code": _code(a), "detail": b}
        case LogEvent.FLASH:
            fields = {"area": _name(Area, a) if a < Area.BANK0 else f"bank {a - Area.BANK0}", "sector": b}
        case LogEvent.TRUST:
            fields = {"version": a}
        case LogEvent.COMMAND:
            fields = {"verb": a, "code": _code(b)}
        case LogEvent.SELFTEST:
            fields = {"passed": a >> 16, "vectors": a & 0xFFFF, "max_diff": b}
        case LogEvent.SEGMENT:
            fields = {"segment": a, "misses": b}
        case LogEvent.SAFE_MODE:
            fields = {"panics": a}
        case _:
            fields = {"a": a, "b": b}
    return kind.name.lower(), fields


def say(event: str, **values: Any) -> None:
    """Print one JSON line to stderr in one write, so that lines of many processes never mix."""
    os.write(2, json.dumps({"event": event, **values}, default=str).encode() + b"\n")


def _name(kind: type[enum.IntEnum], number: int) -> str:
    return kind(number).name.lower() if number in kind._value2member_map_ else str(number)


def _code(number: int) -> str:
    return CODE_NAMES.get(number, str(number))
