"""Collects vectors of one file and knows how to break CBOR and COSE on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fleet.mqtt.codec import cose
from fleet.mqtt.codec.cbor import Tag, decode_strict, encode

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
PYTHON_ONLY = ("python",)


class Collection:
    """The vectors of one file."""

    def __init__(self, kind: str, context: dict[str, Any] | None = None) -> None:
        self.kind = kind
        self.context = context or {}
        self.vectors: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        message: bytes,
        expect: str,
        *,
        context: dict[str, Any] | None = None,
        readers: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        """Add one vector."""
        vector: dict[str, Any] = {"name": name, "kind": self.kind, "expect": expect}
        if context:
            vector["context"] = context
        if readers:
            vector["readers"] = list(readers)
        self.vectors.append(vector | more | {"hex": message.hex()})

    def document(self) -> dict[str, Any]:
        """The file's content. Names are unique."""
        names = [vector["name"] for vector in self.vectors]
        assert len(set(names)) == len(names), f"a vector name is used twice in {self.kind}"
        return {"format": 1, "context": self.context, "vectors": self.vectors}


def raw_map(*pairs: tuple[bytes, bytes]) -> bytes:
    """A map of encoded pairs exactly in this order."""
    assert len(pairs) < 24
    return bytes((0xA0 | len(pairs),)) + b"".join(key + value for key, value in pairs)


def pairs_of(item: dict[Any, Any]) -> list[tuple[bytes, bytes]]:
    """Encoded pairs of a map in wire order."""
    return sorted((encode(key), encode(value)) for key, value in item.items())


def broken_payloads(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, payload) for each CBOR rule, broken in an otherwise good map that starts with `0: 1`."""
    item = decode_strict(payload, max_bytes=4096)
    pairs = pairs_of(item)
    first, second, *rest = pairs
    yield "payload is empty", b""
    yield "payload ends early", payload[:-1]
    yield "payload has a trailing byte", payload + b"\0"
    yield "payload number longer than shortest", raw_map((b"\x00", b"\x18\x01"), second, *rest)
    yield "payload key longer than shortest", raw_map((b"\x18\x00", b"\x01"), second, *rest)
    yield "payload keys unsorted", raw_map(second, first, *rest)
    yield "payload key twice", raw_map(first, first, second, *rest)
    yield "payload map of indefinite length", b"\xbf" + b"".join(k + v for k, v in pairs) + b"\xff"
    yield "payload with a float", raw_map((b"\x00", b"\xf9\x3c\x00"), second, *rest)
    yield "payload with true", raw_map((b"\x00", b"\xf5"), second, *rest)
    yield "payload with null", raw_map((b"\x00", b"\xf6"), second, *rest)
    yield "payload with a tag inside", raw_map((b"\x00", b"\xc1\x01"), second, *rest)
    yield "payload nested ten deep", raw_map(*pairs[:-1], (pairs[-1][0], b"\x81" * 10 + b"\x00"))
    yield "payload map claims more than there is", bytes((0xB9, 0xFF, 0xFF)) + payload[1:]


def unpack(message: bytes) -> list[Any]:
    """The four parts of an envelope."""
    parts: list[Any] = decode_strict(message, max_bytes=8192, may_tag=True).value
    return parts


def pack(tag: int, *parts: Any) -> bytes:
    """An envelope of these parts."""
    return encode(Tag(tag, list(parts)))


def broken_messages(message: bytes, tag: int) -> Iterator[tuple[str, bytes]]:
    """(name, message) for faults that every envelope kind has in common."""
    header, unprotected, payload, last = unpack(message)
    wrong_tag = cose.TAG_MAC0 if tag != cose.TAG_MAC0 else cose.TAG_SIGN1
    yield "message is empty", b""
    yield "message is cut in the middle", message[: len(message) // 2]
    yield "message lacks its last byte", message[:-1]
    yield "message has a trailing byte", message + b"\0"
    yield "message without its tag", encode([header, unprotected, payload, last])
    yield "message with the tag of another envelope", pack(wrong_tag, header, unprotected, payload, last)
    yield (
        "message with its tag not in shortest form",
        b"\xd9\x00" + bytes((tag,)) + message[len(encode(Tag(tag, 0))) - 1 :],
    )
    yield "message with a tag around its tag", b"\xc1" + message
    yield "message of three parts", pack(tag, header, unprotected, payload)
    yield "message of five parts", pack(tag, header, unprotected, payload, last, 0)
    yield "message with something in its unprotected header", pack(tag, header, {4: b"\0" * 8}, payload, last)
    yield "message with text for a payload", pack(tag, header, unprotected, "payload", last)
    yield "message with an empty protected header", pack(tag, b"", unprotected, payload, last)


def plus_order(signature: bytes) -> bytes:
    """The malleable twin of an Ed25519 signature: S + L verifies where nobody checks S < L."""
    s = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + s.to_bytes(32, "little")


def sign_payload(kind: str, payload: bytes, *signers: cose.Signer, aad: bytes = b"") -> bytes:
    """COSE_Sign without any size limit or look at the payload."""
    body = cose.body_header(kind)
    entries = []
    for signer in signers:
        header = cose.signer_header(cose.signing_kid(signer.public_key))
        entries.append([header, {}, signer.sign(encode(["Signature", body, header, aad, payload]))])
    return pack(cose.TAG_SIGN, body, {}, payload, entries)


def sign1_payload(
    kind: str, payload: bytes, signer: cose.Signer, aad: bytes, *, header: bytes | None = None
) -> bytes:
    """COSE_Sign1 with any protected header, without any size limit or look at the payload."""
    protected = cose.sign1_header(kind, cose.signing_kid(signer.public_key)) if header is None else header
    return pack(
        cose.TAG_SIGN1, protected, {}, payload, signer.sign(encode(["Signature1", protected, aad, payload]))
    )


def filled_to(limit: int, build: Callable[[int], bytes]) -> bytes:
    """`build(n)` for the n that makes exactly `limit` bytes."""
    for room in range(limit - len(build(0)), 0, -1):
        message = build(room)
        if len(message) == limit:
            return message
    raise AssertionError("no filling makes that many bytes")


Change = Callable[[dict[int, Any]], object]


def changed(payload: bytes, change: Change) -> bytes:
    """The payload after `change` edited its decoded map."""
    item = decode_strict(payload, max_bytes=4096)
    change(item)
    return encode(item)


def setting(key: int, value: Any) -> Change:
    """A change that sets one key of the map."""
    return lambda item: item.__setitem__(key, value)


def without(key: int) -> Change:
    """A change that removes one key of the map."""
    return lambda item: item.pop(key)


def edit(values: dict[int, Any]) -> Change:
    """A change that sets several keys of the map."""
    return lambda item: item.update(values)


def flip(data: bytes, index: int) -> bytes:
    """The data with the lowest bit of one byte flipped."""
    return data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]
