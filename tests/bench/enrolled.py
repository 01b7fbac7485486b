"""Very many enrolled devices and a staged candidate for them, as rows: what the scale benchmarks start from.

Devices come by COPY, online, each running the baseline version, as an earlier rollout would have left them.
They have no credentials: nothing here connects as a device.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from django.db import connection, transaction

from fleet.accounts.audit import Actor
from fleet.devices.classes import ensure_default_classes
from fleet.devices.installation import ensure_installation
from fleet.devices.models import Device, DeviceClass, DeviceSlot
from ota import chunking, keys
from ota.choices import VersionState
from ota.copying import copy_rows
from ota.manifest import Manifest as Document
from ota.models import Artifact, ClassVerdict, Manifest, MLModel, ModelVersion
from ota.signing import manifest_id, sign_manifest
from ota.tensors import DType, GoldenVector, TensorSpec, make_golden

ACTOR = Actor("command", "bench")
SECOND = Actor("command", "second")
CLASS = "host-a"
ROWS = 5_000


def prepare(now: datetime) -> None:
    """Keys, identity and classes of an installation."""
    keys.init(now)
    ensure_default_classes(now)
    ensure_installation(now)


def device_id(number: int) -> str:
    """Name of a device, in the order of its number."""
    return f"sc-{number:06d}"


def manifest(seq: int, *, kib: int, now: datetime, seed: int = 1) -> Manifest:
    """A signed version of the model `scale` for the devices' class; its bytes follow from seed and seq."""
    data = random.Random(f"{seed} {seq}").randbytes(kib * 1024)
    digest = hashlib.sha256(data).hexdigest()
    model, _ = MLModel.objects.get_or_create(
        name="scale", defaults={"created_at": now, "created_by": ACTOR.name}
    )
    artifact = Artifact.objects.create(sha256=digest, size=len(data), data=data, created_at=now)
    version = ModelVersion.objects.create(
        model=model,
        version=f"1.0.{seq}",
        artifact=artifact,
        state=VersionState.SIGNED,
        created_at=now,
        created_by=ACTOR.name,
    )
    device_class = DeviceClass.objects.get(pk=CLASS)
    golden, blob = make_golden([GoldenVector((bytes(4),), (bytes(3),))], 2)
    message = sign_manifest(
        Document(
            name=model.name,
            version=version.version,
            seq=seq,
            floor=0,
            classes=(bytes.fromhex(device_class.class_id),),
            size=len(data),
            sha256=bytes.fromhex(digest),
            leaves_sha256=chunking.leaves_sha256(data, blob),
            arena_bytes=4096,
            firmware=(1, 0, 0),
            operators=(3, 25),
            inputs=(TensorSpec.of(DType.INT8, (1, 4), 0.5),),
            outputs=(TensorSpec.of(DType.INT8, (1, 3), 1 / 256, -128),),
            golden=golden,
            created=int(now.timestamp()),
        ).encode(),
        keys.release_signers(),
    )
    ClassVerdict.objects.create(
        version=version, device_class=device_class, class_id=device_class.class_id, kind="pass", at=now
    )
    return Manifest.objects.create(
        id=manifest_id(message).hex(),
        mid=manifest_id(message)[:8].hex(),
        version=version,
        seq=seq,
        floor=0,
        message=message,
        leaves=chunking.leaves(data, blob),
        blob=blob,
        chunks=chunking.Layout(len(data), len(blob)).total,
        class_ids=[device_class.class_id],
        kids=[],
        created_at=now,
        created_by=ACTOR.name,
    )


def enrol(
    count: int,
    baseline: Manifest,
    *,
    now: datetime,
    told: Callable[[int], None] = lambda _n: None,
    **reported: Any,
) -> None:
    """Make devices and their slots, ROWS a transaction. told: called with how many there are by now.
    reported: further fields of every device, as its reports would have left them.
    """
    for start in range(0, count, ROWS):
        numbers = range(start, min(count, start + ROWS))
        with transaction.atomic():
            seen = {"device_class_id": CLASS, **_seen(now), **reported}
            _copy(Device, ({"id": device_id(n), **seen} for n in numbers))
            _copy(DeviceSlot, (_slot(device_id(n), baseline, now) for n in numbers))
        told(numbers.stop)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _seen(now: datetime) -> dict[str, Any]:
    return {"enrolled_at": now, "presence": "online", "last_seen_at": now, "reported_at": now}


def _slot(name: str, baseline: Manifest, now: datetime) -> dict[str, Any]:
    return {
        "device_id": name,
        "slot": 0,
        "state": "confirmed",
        "target": baseline.id16,
        "run": baseline.id16,
        "run_seq": baseline.seq,
        "run_bank": 0,
        "updated_at": now,
    }


def _copy(model: Any, rows: Iterable[dict[str, Any]]) -> None:
    """COPY rows into a model's table; what a row does not name gets the field's default."""
    fields = [field for field in model._meta.concrete_fields if field.get_internal_type() != "BigAutoField"]
    prepared = (
        [
            _prepared(field, row[field.attname] if field.attname in row else field.get_default())
            for field in fields
        ]
        for row in rows
    )
    copy_rows(model, [field.name for field in fields], prepared)


def _prepared(field: Any, value: Any) -> Any:
    return json.dumps(value) if field.get_internal_type() == "JSONField" else value
