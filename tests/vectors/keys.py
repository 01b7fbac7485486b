"""The keys, ids and base documents all vectors are made of."""

from __future__ import annotations

import hashlib
from typing import Any

from fleet.mqtt import topics
from fleet.mqtt.codec import cose
from ota import chunking
from ota.manifest import Manifest
from ota.signing import KeyPair, manifest_id, sign_manifest
from ota.tensors import DType, GoldenVector, TensorSpec, make_golden
from ota.trust import NameRule, TrustDocument, sign_trust

RFC8032_SEEDS = (
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
)
"""Secret keys of RFC 8032 section 7.1, tests 1 to 3: our release, online and first root key."""


def seed(name: str) -> bytes:
    """A seed of our own for a named key."""
    return hashlib.sha256(b"tinyfleet vector " + name.encode()).digest()


SEEDS: dict[str, bytes] = {
    "release": bytes.fromhex(RFC8032_SEEDS[0]),
    "online": bytes.fromhex(RFC8032_SEEDS[1]),
    "root": bytes.fromhex(RFC8032_SEEDS[2]),
} | {name: seed(name) for name in ("root2", "root3", "release2", "online2", "firmware", "stranger")}
KEYS = {name: KeyPair.from_seed(value) for name, value in SEEDS.items()}
MAC_KEY, OLD_MAC_KEY = seed("mac"), seed("old mac")
INSTALLATION = seed("installation")[:16]
DEVICE = "dev-7"
CLASS_ID = seed("class")[:16]
ISSUED, NOW = 1_790_000_000, 1_790_000_100


def pub(name: str) -> bytes:
    """Public key of a named key."""
    return KEYS[name].public_key


def pattern(seed_text: str, size: int) -> bytes:
    """`size` deterministic bytes for a model or a blob; README.md describes them for other readers."""
    parts = []
    for number in range(-(-size // 32)):
        parts.append(hashlib.sha256(seed_text.encode() + number.to_bytes(4, "big")).digest())
    return b"".join(parts)[:size]


def base_trust(**changes: Any) -> TrustDocument:
    """Version 3: two roots of three, one of two release keys, one online key."""
    values: dict[str, Any] = {
        "version": 3,
        "issued": ISSUED,
        "expires": ISSUED + 1_000_000,
        "roots": (pub("root"), pub("root2"), pub("root3")),
        "root_threshold": 2,
        "release": (pub("release"), pub("release2")),
        "release_threshold": 1,
        "online": (pub("online"),),
        "names": (NameRule("har", 2), NameRule("kws", 1, True)),
        "firmware": (pub("firmware"),),
        "firmware_threshold": 1,
    }
    return TrustDocument(**values | changes)


def signed_trust(document: TrustDocument) -> bytes:
    """The document signed by its two roots."""
    return sign_trust(document.encode(), [KEYS["root"], KEYS["root2"]])


MODEL = pattern("model", 9_000)
IN, OUT = TensorSpec.of(DType.INT8, (1, 6), 0.5, -3), TensorSpec.of(DType.INT8, (1, 3), 0.00390625, -128)
VECTORS = tuple(GoldenVector((pattern(f"in{i}", 6),), (pattern(f"out{i}", 3),)) for i in range(2))


def base_manifest(**changes: Any) -> Manifest:
    """A model of three chunks with two inline golden vectors."""
    golden, blob = make_golden(VECTORS, 2)
    values: dict[str, Any] = {
        "name": "har",
        "version": "1.0.0",
        "seq": 5,
        "floor": 3,
        "classes": (CLASS_ID,),
        "size": len(MODEL),
        "sha256": hashlib.sha256(MODEL).digest(),
        "leaves_sha256": chunking.leaves_sha256(MODEL, blob),
        "arena_bytes": 20_000,
        "firmware": (1, 0, 0),
        "operators": (3, 9, 25, "SignalWindow"),
        "inputs": (IN,),
        "outputs": (OUT,),
        "golden": golden,
        "created": ISSUED,
    }
    return Manifest(**values | changes)


SIGNED_MANIFEST = sign_manifest(base_manifest().encode(), [KEYS["release"]])
MANIFEST_ID = manifest_id(SIGNED_MANIFEST)
DESIRED_AAD = cose.external_aad(INSTALLATION, topics.desired(DEVICE))
CMD_AAD = cose.external_aad(INSTALLATION, topics.cmd(DEVICE))
