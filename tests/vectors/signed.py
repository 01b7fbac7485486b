"""Vectors of what the root and release keys sign: manifest and trust."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from fleet.mqtt.codec import cose
from fleet.mqtt.codec.cbor import encode
from ota.chunking import CHUNK_BYTES
from ota.hints import Hints
from ota.manifest import MAX_MODEL_BYTES
from ota.signing import sign_manifest
from ota.tensors import DType, GoldenBlob, GoldenVector, TensorSpec, make_golden
from ota.trust import NameRule
from tests.vectors import keys as k
from tests.vectors.collection import (
    Change,
    Collection,
    broken_messages,
    broken_payloads,
    changed,
    edit,
    filled_to,
    flip,
    pack,
    plus_order,
    setting,
    sign1_payload,
    sign_payload,
    unpack,
    without,
)

RELEASE, STRANGER, ONLINE = k.KEYS["release"], k.KEYS["stranger"], k.KEYS["online"]
ROOTS = (k.KEYS["root"], k.KEYS["root2"])


def manifest() -> Collection:
    """manifest.json."""
    out = Collection("manifest", {"trust": k.signed_trust(k.base_trust()).hex(), "now": k.NOW})
    base = k.base_manifest()
    payload, message = base.encode(), k.SIGNED_MANIFEST
    out.add("a model of three chunks with inline golden vectors", message, "ok")
    for name, good in _good_manifests():
        out.add(name, good, "ok")
    for name, bad in broken_messages(message, cose.TAG_SIGN):
        out.add(name, bad, "schema")
    for name, bad in broken_payloads(payload):
        out.add(name, sign_payload("manifest", bad, RELEASE), "schema")
    for name, change, code in _manifest_faults():
        out.add(name, sign_payload("manifest", changed(payload, change), RELEASE), code)
    out.add("payload is an array", sign_payload("manifest", encode([1]), RELEASE), "schema")
    _add_sign_faults(out, "manifest", payload, "signature")
    _add_manifest_trust(out, payload, message)
    return out


def _good_manifests() -> Iterator[tuple[str, bytes]]:
    big, blob = make_golden([GoldenVector((k.pattern(f"wide{i}", 600),), (bytes(3),)) for i in range(8)], 1)
    wide = TensorSpec.of(DType.INT8, (1, 600), 1.0)
    hints = Hints(window=128, hop=64, channels=3, reset_policy=1, latency_budget_us=9000, head=1)
    variants: list[tuple[str, dict[str, Any]]] = [
        ("with a golden blob of two chunks", {"golden": big, "inputs": (wide,)}),
        ("with hints", {"hints": hints}),
        *((f"with {name}", {"hints": Hints(**values)}) for name, values in _good_pipelines()),
        ("with an expiry in the future", {"expires": k.NOW + 1}),
        ("with eight classes", {"classes": tuple(k.seed(str(i))[:16] for i in range(8))}),
        ("of one byte", {"size": 1}),
        ("of the largest size", {"size": MAX_MODEL_BYTES}),
        ("with largest numbers", {"seq": 2**32 - 1, "floor": 2**32 - 1, "arena_bytes": 2**31 - 1}),
        ("with names of full length", {"name": "a" + "z" * 31, "version": "~" * 24}),
        ("without operators", {"operators": ()}),
        ("for slot 3", {"slot": 3}),
        ("whose floor is its seq", {"floor": 5}),
    ]
    assert isinstance(big, GoldenBlob)
    assert big.size == len(blob) > CHUNK_BYTES
    for name, values in variants:
        yield f"a model {name}", sign_manifest(k.base_manifest(**values).encode(), [RELEASE])
    both = sign_manifest(k.base_manifest().encode(), [RELEASE, STRANGER, k.KEYS["release2"]])
    yield "signed by two release keys and a stranger", both
    payload = k.base_manifest(hints=Hints(window=1)).encode()
    unknown = changed(payload, lambda item: item[21].update({30: b"", 31: [[1], {2: "x"}]}))
    yield "with hints that are not known", sign_payload("manifest", unknown, RELEASE)

    def padded(room: int) -> bytes:
        return sign_payload(
            "manifest", changed(unknown, lambda item: item[21].update({30: bytes(room)})), RELEASE
        )

    yield "of exactly 2048 bytes", filled_to(cose.MAX_SIGNED_BYTES, padded)


def _manifest_faults() -> Iterator[tuple[str, Change, str]]:
    for name, key, value in (
        ("format 2", 0, 2),
        ("an empty name", 1, ""),
        ("a name of 33 bytes", 1, "a" * 33),
        ("a name with a slash", 1, "a/b"),
        ("a name in capitals", 1, "Har"),
        ("a name of bytes", 1, b"har"),
        ("an empty version", 2, ""),
        ("a version with a space", 2, "1 0"),
        ("a version of 25 bytes", 2, "1" * 25),
        ("a version that is not ASCII", 2, "1.0\u00e9"),
        ("a seq of 33 bits", 3, 2**32),
        ("a negative seq", 3, -1),
        ("a floor above its seq", 4, 6),
        ("no class", 5, []),
        ("nine classes", 5, [bytes(16)] * 9),
        ("a class id of 15 bytes", 5, [bytes(15)]),
        ("size 0", 6, 0),
        ("a digest of 31 bytes", 7, bytes(31)),
        ("a chunk size of 2048", 8, 2048),
        ("a leaf digest of 33 bytes", 9, bytes(33)),
        ("an arena of 2^31", 10, 2**31),
        ("a firmware version of two numbers", 11, [1, 0]),
        ("operators unsorted", 12, [9, 3]),
        ("an operator twice", 12, [3, 3]),
        ("a custom operator before a builtin one", 12, [[32, "A"], 3]),
        ("custom operators unsorted", 12, [[32, "B"], [32, "A"]]),
        ("builtin 32 alone", 12, [32]),
        ("a named operator that is not 32", 12, [[31, "A"]]),
        ("no input", 13, []),
        ("an output of an unknown type", 14, [[5, [1], 0, 0]]),
        ("an input of six dimensions", 13, [[9, [1] * 6, 0, 0]]),
        ("an input without dimensions", 13, [[9, [], 0, 0]]),
        ("an input dimension of 0", 13, [[9, [1, 0], 0, 0]]),
        ("a scale of 33 bits", 13, [[9, [1, 6], 2**32, 0]]),
        ("a zero point of 33 bits", 13, [[9, [1, 6], 0, 2**31]]),
        ("nine inputs", 13, [[9, [1], 0, 0]] * 9),
        ("no golden vectors", 15, [[], 1]),
        ("a golden blob of 0 bytes", 15, [0, bytes(32), 1, 1]),
        ("a golden blob of 65,537 bytes", 15, [65_537, bytes(32), 1, 1]),
        ("a golden blob without vectors", 15, [100, bytes(32), 0, 1]),
        ("a negative tolerance", 15, [[[[bytes(6)], [bytes(3)]]], -1]),
        ("created before 1970", 16, -1),
        ("a delta", 18, [bytes(32), 1, 10, bytes(32)]),
        ("an encrypted artifact", 19, [bytes(8), bytes(12), bytes(32)]),
        ("kind 2", 20, [2, 0]),
        ("a model for slot 4", 20, [0, 4]),
        ("a model for the firmware slot", 20, [0, 255]),
        ("hints that are an array", 21, [1]),
        ("a key that format 1 lacks", 22, 0),
    ):
        yield f"with {name}", setting(key, value), "schema"
    wide = {13: [[9, [1, 1020], 0, 0]], 15: [[[[bytes(1020)], [bytes(3)]]], 1]}
    yield "with inline vectors over 1024 bytes", edit(wide), "schema"
    for key in (*range(17), 20):
        yield f"without key {key}", without(key), "schema"
    yield "a tensor of more than 262,144 bytes", setting(14, [[9, [1, 262_145], 0, 0]]), "io_contract"
    yield "a tensor whose size leaves 64 bits", setting(13, [[0, [2**31 - 1] * 5, 0, 0]]), "io_contract"
    yield "a model larger than any bank", setting(6, MAX_MODEL_BYTES + 1), "too_large"
    yield "1024 chunks", edit({6: MAX_MODEL_BYTES, 15: [4097, bytes(32), 1, 1]}), "too_large"
    for name, hints in (
        ("window 0", {1: 0, 2: 1}),
        ("hop 0", {1: 4, 2: 0}),
        ("a hop longer than the window", {1: 4, 2: 5}),
        ("reset policy 3", {1: 4, 2: 4, 4: 3}),
    ):
        yield f"hints with {name}", setting(21, hints), "io_contract"
    for name, hints, code in _bad_pipelines():
        yield f"hints with {name}", setting(21, hints), code


def _floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _good_pipelines() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "front-end 0", {"front_end": (0, bytes(8))}
    scale = _floats(0.5, -1.0, 2.0, 0.0)
    yield "front-end 1 of two channels", {"channels": 2, "front_end": (1, bytes(8)), "front_params": scale}
    yield "slot 1 as its front-end", {"front_end": (2, b"12345678"), "front_params": b"\x01"}
    yield "decisions", {"head": 1, "alarm": (53, 53, 2**32 - 1)}
    yield "decisions over another count", {"head": 1, "alarm": (2, 5, 0, 5, 10_000)}
    moments = _floats(*[0.0, 1.0] * 32)
    yield (
        "the distance of sixteen channels' moments",
        {"channels": 16, "anomaly": (2, 100, 1), "distance": moments},
    )
    embedding = {"embedding_output": 0, "distance": _floats(*[0.0, 1.0] * 3)}
    yield "the distance of an embedding", {"anomaly": (2, 2**31 - 1), **embedding}
    yield "a distance without parameters", {"anomaly": (2, 100)}
    yield "clean deciles", {"deciles": (0, 0, 1, 2, 3, 4, 5, 6, 2**31 - 1)}


def _bad_pipelines() -> Iterator[tuple[str, dict[int, Any], str]]:
    digest, nan = bytes(8), b"\x00\x00\xc0\x7f"
    for name, hints in (
        ("front-end 3", {7: [3, digest]}),
        ("front-end 2^32 - 1", {7: [2**32 - 1, digest]}),
        ("front-end 1 without channels", {7: [1, digest], 15: _floats(1, 0)}),
        ("front-end 1 without parameters", {3: 1, 7: [1, digest]}),
        ("front-end 1 of thirteen channels", {3: 13, 7: [1, digest], 15: _floats(*[1] * 24)}),
        ("front-end 1 with a channel too few", {3: 2, 7: [1, digest], 15: _floats(1, 0)}),
        ("front-end 1 with NaN", {3: 1, 7: [1, digest], 15: _floats(1) + nan}),
        ("front-end 1 with infinity", {3: 1, 7: [1, digest], 15: _floats(float("-inf"), 0)}),
        ("front-end 2 without a slot", {7: [2, digest]}),
        ("slot 4 as front-end", {7: [2, digest], 15: b"\x04"}),
        ("itself as front-end", {7: [2, digest], 15: b"\x00"}),
        ("decisions without class scores", {10: [3, 2, 0]}),
        ("a mean more than there is room for", {8: 1, 10: [54, 1, 0]}),
        ("six of the last five", {8: 1, 10: [1, 6, 0, 5]}),
        ("a reconstruction of another size", {11: [1, 100]}),
        ("a distance of no embedding", {11: [2, 100], 14: _floats(0, 1)}),
        ("a distance of output 1", {9: 1, 11: [2, 100], 14: _floats(*[0, 1] * 3)}),
        ("a distance of another size", {9: 0, 11: [2, 100], 14: _floats(*[0, 1] * 2)}),
        ("a distance with NaN", {9: 0, 11: [2, 100], 14: _floats(*[0, 1] * 2, 0) + nan}),
        ("a distance of moments without channels", {11: [2, 100, 1], 14: _floats(0, 1)}),
        ("a distance of source 2", {3: 1, 9: 0, 11: [2, 100, 2], 14: _floats(*[0, 1] * 3)}),
        ("deciles that fall", {16: [1, 2, 3, 4, 5, 6, 7, 9, 8]}),
    ):
        yield name, hints, "io_contract"
    for name, hints in (
        ("decisions of 65", {8: 1, 10: [65, 1, 0]}),
        ("decisions of two numbers", {8: 1, 10: [1, 1]}),
        ("decisions of six numbers", {8: 1, 10: [1, 1, 0, 1, 0, 0]}),
        ("four of the last three, without m", {8: 1, 10: [3, 4, 0]}),
        ("a threshold over 1", {8: 1, 10: [1, 1, 0, 1, 10_001]}),
        ("distance parameters of 7 bytes", {14: bytes(7)}),
        ("distance parameters of 257 bytes", {14: bytes(257)}),
        ("front-end parameters of 97 bytes", {15: bytes(97)}),
        ("no front-end parameters", {15: b""}),
        ("eight deciles", {16: [0] * 8}),
        ("a decile of 2^31", {16: [0] * 8 + [2**31]}),
    ):
        yield name, hints, "schema"


def _add_manifest_trust(out: Collection, payload: bytes, message: bytes) -> None:
    def held(**changes: Any) -> dict[str, Any]:
        return {"trust": k.signed_trust(k.base_trust(**changes)).hex()}

    two = {"release_threshold": 2}
    out.add(
        "two of two release keys",
        sign_payload("manifest", payload, RELEASE, k.KEYS["release2"]),
        "ok",
        context=held(**two),
    )
    out.add("one of two needed release keys", message, "signature", context=held(**two))
    twice = sign_payload("manifest", payload, RELEASE, RELEASE)
    out.add("one release key twice where two are needed", twice, "signature", context=held(**two))
    malleable = _with_signatures(twice, lambda sigs: [sigs[0], [sigs[1][0], {}, plus_order(sigs[1][2])]])
    out.add("one release key with its malleable twin", malleable, "signature", context=held(**two))
    revoked = held(revoked=(RELEASE.kid,))
    out.add("signed by a revoked key only", message, "signature", context=revoked)
    out.add(
        "signed by a live and a revoked key",
        sign_payload("manifest", payload, RELEASE, k.KEYS["release2"]),
        "ok",
        context=revoked,
    )
    out.add(
        "signed by a live and a revoked key where two are needed",
        sign_payload("manifest", payload, RELEASE, k.KEYS["release2"]),
        "signature",
        context=revoked | held(revoked=(RELEASE.kid,), **two),
    )
    for role in ("root", "online", "firmware"):
        out.add(
            f"a model signed by the {role} key", sign_payload("manifest", payload, k.KEYS[role]), "signature"
        )
    inline = [[[[bytes(5)], [bytes(3)]]], 1]
    out.add(
        "a golden vector that does not fill its input",
        sign_payload("manifest", changed(payload, setting(15, inline)), RELEASE),
        "io_contract",
    )
    out.add(
        "seq below the least of the trust document",
        message,
        "sequence",
        context=held(names=(NameRule("har", 6),)),
    )
    expired = sign_payload("manifest", changed(payload, setting(17, k.NOW)), RELEASE)
    out.add("at its expiry", expired, "expired")
    out.add("expired without a clock", expired, "ok", context={"now": None})
    out.add("under an expired trust document", message, "expired", context=held(expires=k.NOW))


def _with_signatures(message: bytes, change: Any) -> bytes:
    header, unprotected, payload, signatures = unpack(message)
    return pack(cose.TAG_SIGN, header, unprotected, payload, change(signatures))


def _add_sign_faults(out: Collection, kind: str, payload: bytes, code: str) -> None:
    """What can be wrong with the signatures of a COSE_Sign message."""
    signers = (RELEASE,) if kind == "manifest" else ROOTS
    good = sign_payload(kind, payload, *signers)
    other = "trust" if kind == "manifest" else "manifest"
    out.add(f"the content type of a {other}", sign_payload(other, payload, *signers), "schema")
    header, _, _, sigs = unpack(good)
    body_more = encode({1: -8, 3: cose.content_type(kind)})
    out.add("an algorithm in the body header", pack(98, body_more, {}, payload, sigs), "schema")
    for name, signer_header in (
        ("algorithm ES256", encode({1: -7, 4: signers[0].kid})),
        ("algorithm EdDSA by name", encode({1: "EdDSA", 4: signers[0].kid})),
        ("a kid of 9 bytes", encode({1: -8, 4: signers[0].kid + b"\0"})),
        ("a kid length not in shortest form", b"\xa2\x01\x27\x04\x58\x08" + signers[0].kid),
        ("no kid", encode({1: -8})),
        ("a content type", encode({1: -8, 3: cose.content_type(kind), 4: signers[0].kid})),
    ):
        signed = signers[0].sign(encode(["Signature", header, signer_header, b"", payload]))
        message = pack(98, header, {}, payload, [[signer_header, {}, signed], *sigs[1:]])
        out.add(f"a signer header with {name}", message, "schema")
    changes: list[tuple[str, Any, str]] = [
        ("no signatures", lambda s: [], "schema"),
        ("nine signatures", lambda s: (s * 9)[:9], "schema"),
        ("a signature of 63 bytes", lambda s: [[s[0][0], {}, s[0][2][:63]], *s[1:]], "schema"),
        ("a signature of two parts", lambda s: [s[0][:2], *s[1:]], "schema"),
        (
            "something unprotected beside a signature",
            lambda s: [[s[0][0], {1: 0}, s[0][2]], *s[1:]],
            "schema",
        ),
        ("one flipped bit in the signature", lambda s: [[s[0][0], {}, flip(s[0][2], 5)], *s[1:]], code),
        ("the malleable twin S + L", lambda s: [[s[0][0], {}, plus_order(s[0][2])], *s[1:]], code),
        ("a signature of zeros", lambda s: [[s[0][0], {}, bytes(64)], *s[1:]], code),
        (
            "another kid in the signer header",
            lambda s: [[cose.signer_header(STRANGER.kid), {}, s[0][2]], *s[1:]],
            code,
        ),
    ]
    for name, change, expect in changes:
        out.add(name, _with_signatures(good, change), expect)
    out.add(
        "one flipped bit in the payload", pack(98, header, {}, flip(payload, len(payload) - 1), sigs), code
    )
    out.add("signed by a stranger", sign_payload(kind, payload, STRANGER), code)
    out.add("signed over external data", sign_payload(kind, payload, *signers, aad=b"x"), code)
    as_sign1 = sign1_payload(kind, payload, signers[0], b"")
    out.add("a COSE_Sign1 of the same content type", as_sign1, "schema")
    padded = good + bytes(cose.MAX_SIGNED_BYTES + 1 - len(good))
    out.add("2049 bytes", padded, "too_large")


def trust() -> Collection:
    """trust.json."""
    context = {
        "roots": [k.pub("root").hex(), k.pub("root2").hex(), k.pub("root3").hex()],
        "root_threshold": 2,
        "min_version": 1,
    }
    out = Collection("trust", context)
    base = k.base_trust()
    payload, message = base.encode(), k.signed_trust(base)
    out.add("two of three roots, release and online keys, firmware key", message, "ok")
    out.add("three signatures", sign_payload("trust", payload, *ROOTS, k.KEYS["root3"]), "ok")
    out.add("a stranger signs too", sign_payload("trust", payload, STRANGER, *ROOTS), "ok")
    out.add("of the least version", message, "ok", context={"min_version": 3})
    out.add("that expired long ago", k.signed_trust(k.base_trust(expires=1)), "ok")
    out.add("that never expires", k.signed_trust(k.base_trust(expires=0)), "ok")
    full = k.base_trust(
        release=tuple(k.KEYS[n].public_key for n in ("release", "release2", "stranger")),
        release_threshold=3,
        online=(k.pub("online"), k.pub("online2")),
        revoked=tuple(k.seed(str(i))[:8] for i in range(8)),
        names=tuple(NameRule("m" * (i + 1), 2**32 - 1, bool(i % 2)) for i in range(8)),
    )
    out.add("with as many revoked keys and names as fit", k.signed_trust(full), "ok")
    out.add("without firmware keys", k.signed_trust(k.base_trust(firmware=(), firmware_threshold=0)), "ok")
    for name, bad in broken_messages(message, cose.TAG_SIGN):
        out.add(name, bad, "schema")
    for name, bad in broken_payloads(payload):
        out.add(name, sign_payload("trust", bad, *ROOTS), "schema")
    for name, change, code in _trust_faults():
        out.add(name, sign_payload("trust", changed(payload, change), *ROOTS), code)
    _add_sign_faults(out, "trust", payload, "trust")
    out.add("one root of two needed", sign_payload("trust", payload, ROOTS[0]), "trust")
    out.add("one root twice", sign_payload("trust", payload, ROOTS[0], ROOTS[0]), "trust")
    out.add(
        "one root with its malleable twin",
        _with_signatures(
            sign_payload("trust", payload, ROOTS[0], ROOTS[0]),
            lambda s: [s[0], [s[1][0], {}, plus_order(s[1][2])]],
        ),
        "trust",
    )
    out.add("older than the least version", message, "trust", context={"min_version": 4})
    new = k.base_trust(version=4, roots=(k.pub("root3"), k.pub("stranger")), root_threshold=2)
    out.add("new roots signed by the held ones only", sign_payload("trust", new.encode(), *ROOTS), "trust")
    both = sign_payload("trust", new.encode(), *ROOTS, k.KEYS["root3"], STRANGER)
    out.add("new roots signed by the held and by themselves", both, "ok")
    out.add(
        "new roots signed by themselves only",
        sign_payload("trust", new.encode(), k.KEYS["root3"], STRANGER),
        "trust",
    )
    return out


def _trust_faults() -> Iterator[tuple[str, Change, str]]:
    a, b, c = k.pub("root"), k.pub("root2"), k.pub("root3")
    release, online, firmware = k.pub("release"), k.pub("online"), k.pub("firmware")
    five = [a, b, c, k.pub("stranger"), k.pub("online2")]
    for name, key, value in (
        ("format 2", 0, 2),
        ("version 2^23", 1, 2**23),
        ("a root key of 31 bytes", 3, [a, b, bytes(31)]),
        ("a root threshold of text", 4, "2"),
        ("a revoked kid of 7 bytes", 8, [bytes(7)]),
        ("a name rule of no numbers", 9, {"har": []}),
        ("a name rule with reset 0", 9, {"har": [1, 0]}),
        ("a name rule with a number for a name", 9, {1: [1]}),
        ("a name rule with a malformed name", 9, {"Har": [1]}),
        ("a least seq of 33 bits", 9, {"har": [2**32]}),
        ("names that are an array", 9, [["har", 1]]),
        ("a key that format 1 lacks", 13, 0),
    ):
        yield f"with {name}", setting(key, value), "schema"
    for key in range(13):
        yield f"without key {key}", without(key), "schema"
    for name, values in (
        ("no root keys", {3: []}),
        ("five root keys", {3: five}),
        ("root threshold 0", {4: 0}),
        ("root threshold above its keys", {4: 4}),
        ("no release keys", {5: []}),
        ("five release keys", {5: [release, k.pub("release2"), *five[3:], k.seed("x")]}),
        ("release threshold 0", {6: 0}),
        ("release threshold above its keys", {6: 3}),
        ("no online keys", {7: []}),
        ("three online keys", {7: [online, k.pub("online2"), k.pub("stranger")]}),
        ("nine revoked keys", {8: [k.seed(str(i))[:8] for i in range(9)]}),
        ("nine names", {9: {"m" * (i + 1): [1] for i in range(9)}}),
        ("three firmware keys", {10: [firmware, k.pub("online2"), k.pub("stranger")]}),
        ("firmware keys without a threshold", {11: 0}),
        ("a firmware threshold without keys", {10: []}),
        ("firmware threshold above its keys", {11: 2}),
        ("a root key twice", {3: [a, b, a]}),
        ("a release key twice", {5: [release, release]}),
        ("a root key among the release keys", {5: [release, a]}),
        ("a release key among the online keys", {7: [release]}),
        ("an online key among the firmware keys", {10: [online]}),
    ):
        yield f"with {name}", edit(values), "trust"
