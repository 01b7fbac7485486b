"""The named JSON form of a batch of windows, for bringing up a board before it can do CBOR and a MAC.

    {"format": 1, "boot": 7, "first": 0, "t0_ms": 1777723200000, "clock": 2, "slot": 0, "model": "activity",
     "version": "2.0.0", "mid": "00112233aabbccdd", "build": "01020304", "windows": [{"dt_ms": 60000, "n": 60,
     "us_mean": 1500, "us_max": 2500, "score_e4": 9000, "top": 2}]}

Names are those of `records.Batch` and `records.Window`. Of a window `dt_ms` and `n` are required; what is
left out is 0, `top` -1. The item is turned into the one that CBOR would have given and read by the same
reader, so that ranges and codes cannot differ. Windows alone: sampled inferences and sketches feed labels and
drift, which count nothing that is not authentic.

JSON carries no MAC. Who takes it says so (`fleet.gateway.uplink`).
"""

from __future__ import annotations

import json
from typing import Any, Final

from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.records import Batch, Window
from fleet.mqtt.codec.telemetry import parse_item

MAX_BYTES: Final = 16_384
"""Of a message; 64 windows with every name take about 14,000."""
BEGINS: Final = b"{"
"""The first byte. No COSE message begins so: in CBOR 0x7b is a text with a length of eight bytes."""
_NAMES: Final = Window._fields[2:]
_REQUIRED: Final = ("dt_ms", "n")
_DEFAULTS: Final = {name: -1 if name == "top" else 0 for name in _NAMES if name not in _REQUIRED}
_PLAIN: Final = {"format": 0, "boot": 1, "first": 2, "t0_ms": 3, "clock": 4}
_RUN: Final = ("slot", "model", "version", "mid")
_KEYS: Final = frozenset({*_PLAIN, *_RUN, "build", "windows"})


def parse_json(payload: bytes) -> Batch:
    """Read a batch of windows that is written as JSON.

    Raises CodecError `too_large`, `malformed_json` for what is no JSON object of whole numbers and texts with
    each name once, and `format_unknown`, `bad_window`, `range` as `telemetry.parse_batch`.
    """
    if len(payload) > MAX_BYTES:
        raise CodecError("too_large", f"{len(payload):,} bytes of JSON, at most {MAX_BYTES:,} are taken")
    try:
        found = json.loads(
            payload.decode(), object_pairs_hook=_once, parse_float=_no_number, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        raise CodecError("malformed_json", "not JSON with whole numbers and each name once") from error
    if type(found) is not dict:
        raise CodecError("malformed_json", "the batch is no object")
    _check_names(found, _KEYS, _KEYS, "the batch")
    item: dict[int, Any] = {number: found[name] for name, number in _PLAIN.items()}
    item[5] = [found[name] if name != "mid" else _raw(found[name], "mid") for name in _RUN]
    item[6] = _raw(found["build"], "build")
    windows = found["windows"]
    item[7] = [_window(one) for one in windows] if type(windows) is list else windows
    return parse_item(item)


def json_of(batch: Batch) -> bytes:
    """The JSON form of a batch; its windows alone."""
    told: dict[str, Any] = {"format": 1} | {
        name: int(getattr(batch, name)) for name in _PLAIN if name != "format"
    }
    told |= {name: getattr(batch, name) for name in _RUN} | {"build": batch.build.hex()}
    told["windows"] = [{name: getattr(window, name) for name in _NAMES} for window in batch.windows]
    return json.dumps(told, separators=(",", ":")).encode()


def _window(found: Any) -> Any:
    if type(found) is not dict:
        raise CodecError("bad_window", "a window is no object")
    _check_names(found, _REQUIRED, _NAMES, "a window")
    return [found[name] if name in found else _DEFAULTS[name] for name in _NAMES]


def _check_names(found: dict[str, Any], required: Any, known: Any, what: str) -> None:
    missing = sorted(set(required) - set(found))
    if missing:
        raise CodecError("range", f"{what} lacks {missing[0]!r}")
    if not set(found) <= set(known):
        raise CodecError("range", f"{what} has a name that format 1 does not know")


def _raw(value: Any, what: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError) as error:
        raise CodecError("range", f"{what} is not written in hex digits") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_number(_: str) -> Any:
    raise ValueError("not a whole number")
