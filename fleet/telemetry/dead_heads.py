"""What can be read of a refused message without its key: for people who look for why it was refused.

Everything here is what some client of the broker sent. It is bounded, never raises, and says nothing about
who sent it: the MAC was not checked, or does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fleet.mqtt.codec.cbor import Tag, decode_strict
from fleet.mqtt.codec.errors import CodecError

SHOWN_BYTES: Final = 48
MOST_ITEMS: Final = 12
MOST_CHARS: Final = 300
KID_BYTES: Final = 4
PAYLOAD_BYTES: Final = 4096


@dataclass(frozen=True)
class Head:
    """The beginning of a message. what: in words. kid: MAC key id it names, hex, "" when there is none.
    fields: the outer items of its content as text, "" when that is no CBOR. first: its first bytes, hex.
    """

    what: str
    kid: str
    fields: str
    first: str


def head_of(payload: bytes) -> Head:
    """Read as much as can be read. payload: as it is kept, so perhaps cut at 4096 bytes."""
    first = payload[:SHOWN_BYTES].hex(" ")
    if not payload:
        return Head("no bytes", "", "", "")
    try:
        item = decode_strict(payload, max_bytes=PAYLOAD_BYTES, may_tag=True)
    except CodecError as error:
        cut = ", cut here at 4,096 bytes" if len(payload) >= PAYLOAD_BYTES else ""
        return Head(f"no CBOR{cut}: {error.text[:120]}", "", "", first)
    if not isinstance(item, Tag):
        return Head("CBOR without a MAC", "", _words(item), first)
    parts = item.value if isinstance(item.value, list) else []
    if len(parts) != 4 or not isinstance(parts[0], bytes) or not isinstance(parts[2], bytes):
        return Head(f"CBOR with tag {item.number}, no COSE_Mac0", "", _words(item.value), first)
    kid = parts[0][-KID_BYTES:].hex() if len(parts[0]) > KID_BYTES else ""
    try:
        content = _words(decode_strict(parts[2], max_bytes=PAYLOAD_BYTES))
    except CodecError as error:
        return Head("COSE_Mac0, its content is no CBOR", kid, error.text[:120], first)
    return Head(f"COSE_Mac0, {len(parts[2]):,} bytes of content", kid, content, first)


def _words(item: Any) -> str:
    """Outer items only: `{0: 1, 1: 7, 3: [40 items]}`."""
    if isinstance(item, Mapping):
        pairs = [f"{str(key)[:24]}: {_short(value)}" for key, value in list(item.items())[:MOST_ITEMS]]
        more = ", …" if len(item) > MOST_ITEMS else ""
        return f"{{{', '.join(pairs)}{more}}}"[:MOST_CHARS]
    if isinstance(item, list):
        more = ", …" if len(item) > MOST_ITEMS else ""
        return f"[{', '.join(_short(value) for value in item[:MOST_ITEMS])}{more}]"[:MOST_CHARS]
    return _short(item)


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:8].hex()}{'…' if len(value) > 8 else ''}"
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, Mapping | list):
        return f"[{len(value)} items]" if isinstance(value, list) else f"{{{len(value)} keys}}"
    return str(value)[:24]
