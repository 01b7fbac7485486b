"""A signed manifest as text for people: what devices read, line by line (SPEC.md section 6)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fleet.mqtt.codec import cose
from ota.manifest import Manifest
from ota.operators import operator_name
from ota.signing import manifest_id
from ota.tensors import GoldenBlob, TensorSpec

SHOWN_BYTES = 16


def manifest_text(message: bytes) -> str:
    """One `field: value` a line, in the order of the keys. Raises CodecError or ManifestError when it is not
    a manifest; signatures are named, not checked.
    """
    parsed = cose.parse_sign("manifest", message)
    found = Manifest.parse(parsed.payload)
    golden = found.golden
    lines: list[tuple[str, Any]] = [
        ("manifest", manifest_id(message).hex()),
        ("signed by", ", ".join(kid.hex() for _, kid, _ in parsed.signatures)),
        ("name", found.name),
        ("version", found.version),
        ("seq", found.seq),
        ("floor", found.floor),
        ("slot", found.slot),
        ("classes", ", ".join(one.hex() for one in found.classes)),
        ("size", f"{found.size} bytes"),
        ("sha256", found.sha256.hex()),
        ("leaves sha256", found.leaves_sha256.hex()),
        ("arena", f"{found.arena_bytes} bytes"),
        ("least firmware", ".".join(map(str, found.firmware))),
        ("operators", ", ".join(_operator(one) for one in found.operators)),
        *((f"input {at}", _tensor(one)) for at, one in enumerate(found.inputs)),
        *((f"output {at}", _tensor(one)) for at, one in enumerate(found.outputs)),
        (
            "golden vectors",
            f"{golden.count} behind the model, {golden.size} bytes, sha256 {golden.sha256.hex()},"
            f" tolerance {golden.tolerance} LSB"
            if isinstance(golden, GoldenBlob)
            else f"{len(golden.vectors)} here, tolerance {golden.tolerance} LSB",
        ),
        ("created", _moment(found.created)),
        ("expires", _moment(found.expires) if found.expires is not None else "never"),
    ]
    if found.hints is not None:
        said = ((name, value) for name, value in vars(found.hints).items() if value is not None)
        lines += [(f"hint {name}", _hint(value)) for name, value in said]
    return "\n".join(f"{name}: {value}" for name, value in lines)


def _operator(one: int | str) -> str:
    return operator_name(one) if isinstance(one, int) else one


def _tensor(one: TensorSpec) -> str:
    shape = "x".join(map(str, one.shape))
    scale = f", scale {one.scale:.9g}, zero point {one.zero_point}" if one.scale_bits else ""
    return f"{one.dtype.name.lower()} [{shape}]{scale}"


def _hint(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:SHOWN_BYTES].hex() + (f"... ({len(value)} bytes)" if len(value) > SHOWN_BYTES else "")
    if isinstance(value, tuple):
        return " ".join(_hint(one) for one in value)
    return str(value)


def _moment(at_s: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{at_s} s after 1970"
