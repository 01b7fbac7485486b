"""Fixtures of the journey's tests: a private broker, an installation with keys and classes, devices."""

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.stack.services import Broker, private_mosquitto


@pytest.fixture(scope="session")
def session_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One Mosquitto for all tests of this process; what a test retains there has names of its own."""
    with private_mosquitto(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def broker(session_broker: Broker, settings: Any) -> Broker:
    """The broker, with the settings that lead to it."""
    env = session_broker.env()
    settings.MQTT = {
        "host": env["FLEET_MQTT_HOST"],
        "port": session_broker.port,
        "ca": env["FLEET_MQTT_CA"],
        "users_file": env["FLEET_MQTT_USERS_FILE"],
        "password_file": env["FLEET_MQTT_PASSWORD_FILE"],
        "pid_file": env["FLEET_MQTT_PID_FILE"],
    }
    return session_broker


@pytest.fixture
def installation(db: None, now: datetime) -> bytes:
    """An installation with identity, keys, trust document and the default classes; returns its id."""
    from fleet.devices.classes import ensure_default_classes
    from fleet.devices.installation import ensure_installation
    from ota import keys

    keys.init(now)
    ensure_default_classes(now)
    return ensure_installation(now)


@pytest.fixture
def make_device(installation: bytes, now: datetime) -> Callable[..., Any]:
    """Factory of enrolled devices: `make_device("dev-1", "host-a")`."""
    from fleet.devices.models import Device

    def make(name: str, class_name: str = "host-a", **given: Any) -> Device:
        return Device.objects.create(id=name, device_class_id=class_name, enrolled_at=now, **given)

    return make


@pytest.fixture
def make_manifest(installation: bytes, now: datetime) -> Callable[..., Any]:
    """Factory of signed manifests with their version: `make_manifest(size=10_000)`; never twice the same."""
    return signed_manifest(now)


def signed_manifest(now: datetime) -> Callable[..., Any]:
    """The factory behind `make_manifest`, for fixtures of a wider scope; the installation is made."""
    from ota import chunking, keys
    from ota.manifest import Manifest as Document
    from ota.models import Artifact, Manifest, MLModel, ModelVersion
    from ota.signing import manifest_id, sign_manifest
    from ota.tensors import DType, GoldenVector, TensorSpec, make_golden

    def make(*, size: int = 10_000, vectors: int = 4, name: str = "kws", hints: Any = None) -> Manifest:
        data = os.urandom(size)
        model, _ = MLModel.objects.get_or_create(
            name=name, defaults={"created_at": now, "created_by": "test"}
        )
        model.last_seq += 1
        model.save()
        digest = hashlib.sha256(data).hexdigest()
        artifact = Artifact.objects.create(sha256=digest, size=size, data=data, created_at=now)
        version = ModelVersion.objects.create(
            model=model,
            version=f"1.0.{model.last_seq}",
            artifact=artifact,
            state="signed",
            created_at=now,
            created_by="test",
        )
        golden, blob = make_golden([GoldenVector((os.urandom(64),), (os.urandom(4),))] * vectors, 2)
        payload = Document(
            name=name,
            version=version.version,
            seq=model.last_seq,
            floor=0,
            classes=(os.urandom(16),),
            size=size,
            sha256=bytes.fromhex(digest),
            leaves_sha256=chunking.leaves_sha256(data, blob),
            arena_bytes=4096,
            firmware=(1, 0, 0),
            operators=(3, 25),
            inputs=(TensorSpec.of(DType.INT8, (1, 64), 0.1),),
            outputs=(TensorSpec.of(DType.INT8, (1, 4), 1 / 256, -128),),
            golden=golden,
            created=int(now.timestamp()),
            hints=hints,
        ).encode()
        message = sign_manifest(payload, keys.release_signers())
        return Manifest.objects.create(
            id=manifest_id(message).hex(),
            mid=manifest_id(message)[:8].hex(),
            version=version,
            seq=model.last_seq,
            floor=0,
            message=message,
            leaves=chunking.leaves(data, blob),
            blob=blob,
            chunks=chunking.Layout(size, len(blob)).total,
            class_ids=[],
            kids=[],
            created_at=now,
            created_by="test",
        )

    return make
