"""Real signed documents and a device that trusts their keys, for what is measured on the emulated chip.

The keys come from names, so that every run signs and counts the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from device_firmware.host.core import encode_operators
from device_firmware.host.rv32.bench import Script
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action
from ota import chunking
from ota.desired import Desired, DesiredEntry, sign_desired
from ota.manifest import Manifest
from ota.signing import KeyPair, manifest_id, sign_manifest
from ota.tensors import DType, GoldenVector, TensorSpec, make_golden
from ota.trust import TrustDocument, sign_trust

DEVICE = "dev-7"
NOW = 1_790_000_100
_INSTALLATION = bytes(range(16))
_CLASS_ID = hashlib.sha256(b"class").digest()[:16]
_OPERATORS = (3, 9, 25)


def _key(name: str) -> KeyPair:
    return KeyPair.from_seed(hashlib.sha256(b"rv32 " + name.encode()).digest())


_ROOTS = [_key("root"), _key("root2"), _key("root3")]
_RELEASE = [_key("release"), _key("release2")]
_ONLINE = _key("online")


@dataclass(frozen=True)
class Signed:
    """A model and the manifest that two release keys signed."""

    data: bytes
    message: bytes


def device(*, capacity: int) -> Script:
    """A blank device that has booted and for which a trust document waits: two of two release keys."""
    script = Script()
    script.identity(
        DEVICE,
        installation_id=_INSTALLATION,
        class_id=_CLASS_ID,
        mac_key=hashlib.sha256(b"mac").digest(),
        roots=[key.public_key for key in _ROOTS],
        root_threshold=2,
        capacity=capacity,
        operators=encode_operators(_OPERATORS),
    )
    script.clock(1000, NOW)
    script.boot()
    trust = TrustDocument(
        version=1,
        issued=NOW - 1000,
        expires=0,
        roots=tuple(key.public_key for key in _ROOTS),
        root_threshold=2,
        release=tuple(key.public_key for key in _RELEASE),
        release_threshold=2,
        online=(_ONLINE.public_key,),
    )
    script.retain(topics.TRUST, sign_trust(trust.encode(), _ROOTS[:2]))
    return script


def model(*, seq: int, size: int) -> Signed:
    """A model with two golden vectors that the rig's engine answers."""
    data = (hashlib.sha256(b"model").digest() * (size // 32 + 1))[:size]
    vectors = [GoldenVector((bytes((i, 2, 3, 4)),), (bytes((i, 2, 3)),)) for i in range(2)]
    golden, blob = make_golden(vectors, 2)
    manifest = Manifest(
        name="har",
        version=f"1.0.{seq}",
        seq=seq,
        floor=0,
        classes=(_CLASS_ID,),
        size=size,
        sha256=hashlib.sha256(data).digest(),
        leaves_sha256=chunking.leaves_sha256(data, blob),
        arena_bytes=20_000,
        firmware=(1, 0, 0),
        operators=_OPERATORS,
        inputs=(TensorSpec.of(DType.INT8, (1, 4), 0.5),),
        outputs=(TensorSpec.of(DType.INT8, (1, 3), 0.00390625, -128),),
        golden=golden,
        created=NOW - 500,
    )
    return Signed(data, sign_manifest(manifest.encode(), _RELEASE))


def publish(script: Script, item: Signed) -> None:
    """The broker holds the manifest, the leaf list and every chunk."""
    mid = manifest_id(item.message)[:8].hex()
    for topic, payload in dict(chunking.publications(mid, item.message, item.data, b"")).items():
        script.retain(topic, payload)


def desired(item: Signed, *, number: int) -> tuple[str, bytes]:
    """Topic and bytes of a desired document that asks for the model in slot 0."""
    entry = DesiredEntry(Action.RUN, manifest_id(item.message), attempt=number)
    document = Desired(DEVICE, 1 << 40 | number, 1, issued=NOW, entries={0: entry})
    return topics.desired(DEVICE), sign_desired(document, _ONLINE, installation_id=_INSTALLATION)


def signature_of(message: bytes) -> bytes:
    """Key, signature and message, as the bench verifies them."""
    key = _RELEASE[0]
    return key.public_key + key.sign(message) + message
