"""What the device on the bench is given: its identity, keys, trust documents and models, really signed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from device_firmware.host.core import Ident
from ota import chunking
from ota.hints import Hints
from ota.manifest import Manifest
from ota.signing import KeyPair, manifest_id, sign_manifest
from ota.tensors import DType, GoldenVector, TensorSpec, make_golden
from ota.trust import TrustDocument, sign_trust

DEVICE = "dev-7"
INSTALLATION = bytes(range(16))
CLASS_ID = hashlib.sha256(b"class").digest()[:16]
MAC_KEY = hashlib.sha256(b"mac").digest()
NOW = 1_790_000_100
OPERATORS: tuple[int | tuple[int, str], ...] = (0, 3, 9, 22, 25, (32, "SignalWindow"))
CAPACITY = 64 * 4096


def keypair(name: str) -> KeyPair:
    """The key pair of a name, the same in every run."""
    return KeyPair.from_seed(hashlib.sha256(b"rig " + name.encode()).digest())


ROOTS = [keypair(f"root{i}") for i in range(3)]
RELEASE, RELEASE2, ONLINE = keypair("release"), keypair("release2"), keypair("online")


def ident(**changes: Any) -> Ident:
    """The device of every test."""
    base = Ident(
        device_id=DEVICE,
        installation_id=INSTALLATION,
        class_id=CLASS_ID,
        roots=tuple(key.public_key for key in ROOTS),
        root_threshold=2,
        mac_key=MAC_KEY,
        boot=1,
        operators=OPERATORS,
        arena_bytes=100_000,
        slot_capacity=(CAPACITY,),
        probation_n=3,
        probation_s=2,
    )
    return replace(base, **changes)


def trust(**changes: Any) -> TrustDocument:
    """Trust document 1: one of one release key."""
    values: dict[str, Any] = {
        "version": 1,
        "issued": NOW - 1000,
        "expires": 0,
        "roots": tuple(key.public_key for key in ROOTS),
        "root_threshold": 2,
        "release": (RELEASE.public_key,),
        "release_threshold": 1,
        "online": (ONLINE.public_key,),
    }
    return TrustDocument(**values | changes)


def signed_trust(document: TrustDocument, keys: Sequence[KeyPair] = tuple(ROOTS[:2])) -> bytes:
    """The document signed by two roots."""
    return sign_trust(document.encode(), list(keys))


@dataclass(frozen=True)
class Artifact:
    """A model ready to be staged: its bytes, golden blob and signed manifest."""

    data: bytes
    blob: bytes
    message: bytes
    manifest: Manifest

    @property
    def id(self) -> bytes:
        """SHA-256 of the signed manifest."""
        return manifest_id(self.message)

    @property
    def mid(self) -> str:
        """The id in topics."""
        return self.id[:8].hex()

    def publications(self) -> dict[str, bytes]:
        """Everything that is retained for it."""
        return dict(chunking.publications(self.mid, self.message, self.data, self.blob))


IN, OUT = TensorSpec.of(DType.INT8, (1, 4), 0.5), TensorSpec.of(DType.INT8, (1, 3), 0.00390625, -128)


def vectors(count: int = 2) -> list[GoldenVector]:
    """Golden vectors that `ScriptedEngine` answers exactly: each output byte is an input byte."""
    return [GoldenVector((bytes([i, 2, 3, 4]),), (bytes([i, 2, 3]),)) for i in range(count)]


def artifact(
    seq: int = 1,
    *,
    size: int = 20_000,
    name: str = "har",
    data: bytes | None = None,
    blob: bytes | None = None,
    manifest_changes: dict[str, Any] | None = None,
    golden: Sequence[GoldenVector] | None = None,
    tolerance: int = 2,
    force_blob: bool = False,
    signers: Sequence[KeyPair] = (RELEASE,),
    **changes: Any,
) -> Artifact:
    """A signed model version; its bytes follow from name and seq unless given."""
    if data is None:
        data = (hashlib.sha256(f"{name} {seq}".encode()).digest() * (size // 32 + 1))[:size]
    many = list(golden if golden is not None else vectors(40 if force_blob else 2))
    entry, made = make_golden(many, tolerance)
    blob = made if blob is None else blob
    values: dict[str, Any] = {
        "name": name,
        "version": f"1.0.{seq}",
        "seq": seq,
        "floor": 0,
        "classes": (CLASS_ID,),
        "size": len(data),
        "sha256": hashlib.sha256(data).digest(),
        "leaves_sha256": chunking.leaves_sha256(data, blob),
        "arena_bytes": 20_000,
        "firmware": (1, 0, 0),
        "operators": (3, 9, 25),
        "inputs": (IN,),
        "outputs": (OUT,),
        "golden": entry,
        "created": NOW - 500,
        "hints": Hints(window=4, hop=4, channels=1, head=1, classes=3, anomaly=(3, 900)),
    }
    manifest = Manifest(**values | changes | (manifest_changes or {}))
    return Artifact(data, blob, sign_manifest(manifest.encode(), list(signers)), manifest)
