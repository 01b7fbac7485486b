"""Bare CBOR, class descriptions, chunk maps, names and keys."""

from __future__ import annotations

import hashlib
from typing import Any

from fleet.mqtt.codec import cose, names
from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.classes import ClassDescription, build_id, name_hash, opset_digest
from fleet.mqtt.codec.names import Chip
from ota import chunking
from tests.vectors import keys as k
from tests.vectors.collection import (
    Collection,
    broken_payloads,
    changed,
    setting,
)

OPERATORS = (3, 9, 25, "SignalWindow")


def cbor() -> Collection:
    """cbor.json: single items."""
    out = Collection("cbor", {"max_bytes": 256})
    for name, hex_text in (
        ("zero", "00"),
        ("twenty-three", "17"),
        ("twenty-four", "1818"),
        ("255", "18ff"),
        ("256", "190100"),
        ("65,536", "1a00010000"),
        ("2^32", "1b0000000100000000"),
        ("largest unsigned", "1bffffffffffffffff"),
        ("minus one", "20"),
        ("minus 25", "3818"),
        ("least negative", "3bffffffffffffffff"),
        ("no bytes", "40"),
        ("bytes", "43010203"),
        ("bytes of 24", "5818" + "aa" * 24),
        ("no text", "60"),
        ("text", "6161"),
        ("text beyond ASCII", "62c3a9"),
        ("text of four-byte characters", "64f09f9880"),
        ("no array", "80"),
        ("array", "83010203"),
        ("no map", "a0"),
        ("map", "a2000102a0"),
        ("map with names", "a2616101626161" + "02"),
        ("number before name", "a2181f00616100"),
        ("arrays six deep", "818181818180"),
    ):
        out.add(name, bytes.fromhex(hex_text), "ok")
    for name, hex_text in (
        ("nothing", ""),
        ("23 in two bytes", "1817"),
        ("255 in three bytes", "1900ff"),
        ("65,535 in five bytes", "1a0000ffff"),
        ("2^32 - 1 in nine bytes", "1b00000000ffffffff"),
        ("length in two bytes", "580100"),
        ("array length in two bytes", "980100"),
        ("reserved head 28", "1c"),
        ("indefinite bytes", "5f4100ff"),
        ("indefinite array", "9f00ff"),
        ("indefinite map", "bf0000ff"),
        ("break alone", "ff"),
        ("half float", "f93c00"),
        ("single float", "fa3f800000"),
        ("double float", "fb3ff0000000000000"),
        ("false", "f4"),
        ("true", "f5"),
        ("null", "f6"),
        ("undefined", "f7"),
        ("simple 32", "f820"),
        ("tag", "c100"),
        ("bignum", "c249010000000000000000"),
        ("truncated head", "1901"),
        ("truncated bytes", "4301"),
        ("truncated text", "6261"),
        ("truncated array", "8201"),
        ("truncated map", "a100"),
        ("array of 2^32", "9b0000000100000000"),
        ("map of 2^64 - 1", "bbffffffffffffffff"),
        ("bytes of 2^63", "5b8000000000000000"),
        ("trailing byte", "0000"),
        ("keys unsorted", "a201000000"),
        ("key twice", "a200000000"),
        ("key 32", "a1182000"),
        ("negative key", "a12000"),
        ("byte string key", "a1410000"),
        ("array key", "a18000"),
        ("names unsorted", "a262616101616102"),
        ("name before number", "a2616100181f00"),
        ("text that is not UTF-8", "61ff"),
        ("overlong UTF-8", "62c080"),
        ("UTF-16 surrogate", "63eda080"),
        ("text beyond Unicode", "64f4908080"),
        ("arrays seven deep", "81818181818180"),
    ):
        out.add(name, bytes.fromhex(hex_text), "cbor_bad")
    out.add("256 bytes", encode(bytes(254)), "ok")
    out.add("257 bytes", encode(bytes(255)), "too_large")
    return out


def classes() -> Collection:
    """classes.json."""
    out = Collection("class")
    base = ClassDescription("host-small", Chip.HOST, 65_536, (385_024, 57_344), OPERATORS, "none")
    digests = {"class_id": base.class_id.hex(), "opset": opset_digest(OPERATORS).hex()}
    digests["build_id"] = build_id("1.0.0", "none", Chip.HOST).hex()
    digests["name_hash"] = name_hash("host-small").hex()
    out.add("two slots", base.encode(), "ok", **digests)
    for name, bad in broken_payloads(base.encode()):
        out.add(name, bad, "schema")
    for name, key, value in (
        ("format 2", 0, 2),
        ("an empty name", 1, ""),
        ("chip 7", 2, 7),
        ("an arena of 2^31", 3, 2**31),
        ("no slots", 4, []),
        ("five slots", 4, [4096] * 5),
        ("a capacity that is not whole chunks", 4, [4097]),
        ("operators unsorted", 5, [9, 3]),
    ):
        out.add(f"with {name}", changed(base.encode(), setting(key, value)), "schema")
    return out


def leaves() -> dict[str, Any]:
    """leaves.json: chunk maps."""
    maps = []
    for size, blob_size in ((1, 0), (4096, 0), (4097, 0), (32_768, 1), (32_769, 4097), (40_000, 65_536)):
        data, blob = k.pattern("leaf model", size), k.pattern("leaf blob", blob_size)
        layout = chunking.Layout(size, blob_size)
        parts = list(chunking.chunks(data, blob))
        maps.append(
            {
                "size": size,
                "blob_size": blob_size,
                "model_chunks": layout.model_chunks,
                "total": layout.total,
                "segments": layout.segments,
                "last_chunk_bytes": len(parts[-1]),
                "sha256": hashlib.sha256(data).hexdigest(),
                "leaves": chunking.leaves(data, blob).hex(),
                "leaves_sha256": chunking.leaves_sha256(data, blob).hex(),
            }
        )
    return {"format": 1, "seed": "leaf model", "blob_seed": "leaf blob", "maps": maps}


def codes() -> dict[str, Any]:
    """codes.json: every enumeration by name and number."""
    tables: dict[str, type[names.WireEnum]] = {
        "refusal": names.RefusalCode,
        "verdict": names.VerdictCode,
        "state": names.UpdateState,
        "phase": names.Phase,
        "reset": names.ResetReason,
        "chip": names.Chip,
        "action": names.Action,
        "verb": names.CommandVerb,
        "event": names.EventKind,
        "config": names.ConfigKey,
        "clock": names.Clock,
    }
    numbers = {table: {member.label: int(member) for member in enum} for table, enum in tables.items()}
    return {"format": 1, **numbers, "uplink_codes": list(names.UPLINK_CODES)}


def key_table() -> dict[str, Any]:
    """keys.json: every key by name. They are public test material."""
    signing = {
        name: {"seed": k.SEEDS[name].hex(), "public": pair.public_key.hex(), "kid": pair.kid.hex()}
        for name, pair in k.KEYS.items()
    }
    mac = {
        name: {"key": key.hex(), "kid": cose.mac_kid(key).hex()}
        for name, key in (("mac", k.MAC_KEY), ("old mac", k.OLD_MAC_KEY))
    }
    return {"format": 1, "signing": signing, "mac": mac}
