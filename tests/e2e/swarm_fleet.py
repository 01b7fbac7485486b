"""Hundreds of true firmware cores (the swarm) as devices of a running stack, and models for their engine.

The devices are enrolled by the product's own verb and the chunks are staged by its worker. What is played is
the engine: it echoes its input, so a model made here is any bytes whose golden vectors echo.
"""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from device_firmware.host import build
from device_firmware.host.core import encode_operators
from fleet.stack.children import ChildSpec

CLASS = "host-a"
CONNECTIONS_S = 100
"""Devices that connect in a second."""
ENROLLERS = 24
PROBATION = "probation 4 2"
"""A trial lasts four inferences and 2 s."""


def enrol(count: int, *, now: datetime) -> list[dict[str, Any]]:
    """Enrol `sw-00000` ...; each device's answer, as the enrolment endpoint gives it."""
    from fleet.accounts.audit import Actor
    from fleet.devices import enrolment
    from ota import keys

    actor = Actor("command", "killing")
    names = [f"sw-{n:05d}" for n in range(count)]
    tokens = enrolment.create_tokens(CLASS, names, actor=actor, now=now)
    anchor = keys.root_anchor()

    def one(name: str, token: str) -> dict[str, Any]:
        request = enrolment.EnrolmentRequest(token, name, CLASS, "host", "1.0.0")
        return enrolment.enrol(request, anchor=anchor, now=now)

    # several at once: those who wait for the broker's password file share a writing of it
    with ThreadPoolExecutor(ENROLLERS) as pool:
        return list(pool.map(one, names, tokens))


def config(count: int) -> dict[str, int]:
    """What devices are told: up to 1,000 of them a telemetry window every 10 s, an inference every 0.5 s
    and a full report every minute; more of them SPEC.md's defaults.
    """
    if count <= 1_000:
        return {"window_s": 10, "period_ms": 500, "heartbeat_s": 60}
    return {"window_s": 60, "period_ms": 1_000, "heartbeat_s": 300}


def fleet_file(path: Path, answers: list[dict[str, Any]]) -> Path:
    """What `swarm --file` reads, from what enrolment answered."""
    from fleet.devices.classes import get_class

    one, described = answers[0], get_class(CLASS)
    lines = [
        f"installation {one['installation_id']}",
        f"class {one['class_id']}",
        *(f"root {root}" for root in one["roots"]),
        f"root_threshold {one['root_threshold']}",
        f"least_trust {one['least_trust_version']}",
        f"arena {described.arena_bytes}",
        f"slot {described.slot_bytes[0]}",
        "firmware 1.0.0",
        f"operators {encode_operators(tuple(described.operators)).hex()}",
        PROBATION,
        *(f"device {a['device_id']} {a['broker']['password']} {a['mac_key']}" for a in answers),
    ]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n")
    return path


def swarm(file: Path, devices: int, port: int, seed: int) -> ChildSpec:
    """The swarm as a child of the stack; it runs until it is stopped."""
    command = [str(build.build_swarm()), "--file", str(file), "--port", str(port), "--devices", str(devices)]
    command += ["--rate", str(CONNECTIONS_S), "--seed", str(seed), "--duration", "86000"]
    return ChildSpec("swarm", tuple(command), stop_grace_s=5.0)


def make_model(number: int, kib: int, seed: int, *, now: datetime) -> Any:
    """Version `number` of the swarm's model, signed and about to be staged: an `ota` Manifest."""
    from fleet.devices.classes import get_class
    from ota import chunking, keys, staging
    from ota.manifest import Manifest as Document
    from ota.models import Artifact, ClassVerdict, Manifest, MLModel, ModelVersion
    from ota.signing import manifest_id, sign_manifest
    from ota.tensors import DType, GoldenVector, TensorSpec, make_golden

    described, made = get_class(CLASS), {"created_at": now, "created_by": "killing"}
    data = random.Random(f"{seed} {number}").randbytes(kib * 1024)
    digest = hashlib.sha256(data).digest()
    model, _ = MLModel.objects.get_or_create(name="swarm", defaults=made)
    MLModel.objects.filter(pk=model.pk).update(last_seq=number)
    artifact = Artifact.objects.create(sha256=digest.hex(), size=len(data), data=data, created_at=now)
    version = ModelVersion.objects.create(
        model=model, version=f"1.{number}.0", artifact=artifact, state="signed", **made
    )
    ClassVerdict.objects.create(
        version=version, device_class=described, class_id=described.class_id, kind="pass", at=now
    )
    echoing = [GoldenVector((bytes([n, 2, 3, 4]),), (bytes([n, 2, 3]),)) for n in range(1, 4)]
    golden, blob = make_golden(echoing, 2)
    payload = Document(
        name="swarm",
        version=version.version,
        seq=number,
        floor=0,
        classes=(bytes.fromhex(described.class_id),),
        size=len(data),
        sha256=digest,
        leaves_sha256=chunking.leaves_sha256(data, blob),
        arena_bytes=8_192,
        firmware=(1, 0, 0),
        operators=(9, 25),
        inputs=(TensorSpec.of(DType.INT8, (1, 4), 0.5),),
        outputs=(TensorSpec.of(DType.INT8, (1, 3), 1 / 256, -128),),
        golden=golden,
        created=int(now.timestamp()),
    ).encode()
    signers = keys.release_signers()
    message = sign_manifest(payload, signers)
    name = manifest_id(message).hex()
    manifest = Manifest.objects.create(
        id=name,
        mid=name[:16],
        version=version,
        seq=number,
        floor=0,
        message=message,
        leaves=chunking.leaves(data, blob),
        blob=blob,
        chunks=chunking.Layout(len(data), len(blob)).total,
        class_ids=[described.class_id],
        kids=[signer.kid.hex() for signer in signers],
        **made,
    )
    staging.request(manifest)
    return manifest
