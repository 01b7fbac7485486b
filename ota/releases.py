"""Release: a judged version becomes a signed manifest that devices of its classes can install."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.mqtt.codec.classes import Operator, sorted_operators
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.shape import Shape
from ota import announcements, chunking, keys, staging
from ota.choices import VerdictKind, VersionState
from ota.errors import RegistryError
from ota.hints import Hints, parse_hints
from ota.manifest import MAX_CLASSES
from ota.manifest import Manifest as Document
from ota.models import ClassVerdict, Manifest, MLModel, ModelVersion
from ota.signing import manifest_id, sign_manifest, verify_manifest
from ota.tensors import DType, Golden, TensorSpec, make_golden, parse_golden_blob
from ota.transitions import IllegalTransition
from ota.verdicts import LEAST_FIRMWARE, OPEN, RELEASED

SOFTMAX, LOGISTIC = 25, 14
ANOMALY_KIND: Final = 3
ANOMALY_THRESHOLD: Final = 800
"""Default of hint 11: a window is anomalous when the two best scores are less than 0.2 apart."""
_HEX_HINTS: Final = (12, 14, 15)
_FRONT_END: Final = 7


def release(
    version: ModelVersion,
    *,
    slot: int = 0,
    floor: int | None = None,
    classes: Collection[str] | None = None,
    resign: bool = False,
    actor: Actor,
    now: datetime,
) -> Manifest:
    """Sign a version for every class it passes on, or was acknowledged for, and have its chunks staged after
    commit.

    slot: logical model slot 0..3. floor: least seq that devices accept once this is confirmed; at most its
    own seq, 0 by default. classes: only these. resign: a further manifest of a version released before, with
    a higher seq. Raises IllegalTransition when the version is refused, not inspected, unproven without
    acknowledgement, released already or taken back; RegistryError `preflight_required` without golden
    vectors, `validation` for slot, floor or classes; ManifestError when what would be signed breaks a rule
    devices hold; KeysError.
    """
    if not 0 <= slot <= 3:
        raise RegistryError("validation", f"slot {slot} is not in 0..3")
    trust, _ = keys.current_trust()
    signers = keys.release_signers()
    with transaction.atomic():
        seq = _next_seq(version.model_id, trust.least_seq(version.model_id))
        version = ModelVersion.objects.select_related("artifact", "model").get(pk=version.pk)
        _check_state(version, slot, resign=resign)
        golden, blob = _golden(version)
        needed = chunking.Layout(version.artifact.size, len(blob)).padded_bytes
        verdicts = _targets(version, slot, classes, needed)
        if not 0 <= (floor or 0) <= seq:
            raise RegistryError("validation", f"floor {floor} is not in 0..{seq}, the manifest's own seq")
        document = _document(version, verdicts, golden, blob, slot=slot, seq=seq, floor=floor or 0, now=now)
        message = sign_manifest(document.encode(), signers)
        verify_manifest(message, trust, now_s=int(now.timestamp()))
        digest = manifest_id(message).hex()
        row = Manifest.objects.create(
            id=digest,
            mid=digest[:16],
            version=version,
            slot=slot,
            seq=seq,
            floor=floor or 0,
            message=message,
            leaves=chunking.leaves(bytes(version.artifact.data), blob),
            blob=blob,
            chunks=document.layout.total,
            class_ids=[verdict.class_id for verdict in verdicts],
            kids=[signer.kid.hex() for signer in signers],
            created_at=now,
            created_by=actor.name,
        )
        names = [verdict.device_class_id for verdict in verdicts]
        opened = ModelVersion.objects.filter(pk=version.pk, state__in=OPEN)
        opened.update(state=VersionState.SIGNED, released_at=now)
        audit.record(
            actor=actor,
            verb="version.release",
            subject_kind="version",
            subject_id=str(version.pk),
            at=now,
            before={"state": version.state},
            after={
                "manifest": digest,
                "seq": seq,
                "slot": slot,
                "floor": floor or 0,
                "classes": names,
                "kids": row.kids,
            },
        )
        announcements.model_signed(row, classes=names, actor=actor, now=now)
        staging.request(row)
    return row


def releasable(version: ModelVersion) -> list[ClassVerdict]:
    """Verdicts of the classes a manifest may target: passed, or unproven and acknowledged, and judged as the
    class is now.
    """
    rows = version.verdicts.select_related("device_class").order_by("device_class_id")
    return [
        row
        for row in rows
        if row.class_id == row.device_class.class_id
        and (row.kind == VerdictKind.PASS or (row.kind == VerdictKind.UNPROVEN and row.acknowledged_by))
    ]


def hints_of(stored: Mapping[str, Any]) -> Hints:
    """Hints from their stored form (numbers as keys, bytes as hex). Raises RegistryError `validation`."""
    numbers: dict[int, Any] = {}
    for key, value in stored.items():
        number = int(key)
        try:
            if number in _HEX_HINTS:
                value = bytes.fromhex(value)
            elif number == _FRONT_END:
                value = [value[0], bytes.fromhex(value[1])]
        except (TypeError, ValueError, IndexError, KeyError):
            raise RegistryError("validation", f"hint {number} holds no bytes in hex") from None
        numbers[number] = value
    return parse_hints(numbers, Shape("validation", RegistryError))


def _next_seq(model_name: str, least: int) -> int:
    """Take the next sequence number of a model. The row stays locked until commit, so two releases never
    share one.
    """
    row = MLModel.objects.filter(pk=model_name)
    row.update(last_seq=Greatest(F("last_seq") + 1, least))
    return int(row.values_list("last_seq", flat=True).get())


def _check_state(version: ModelVersion, slot: int, *, resign: bool) -> None:
    if version.state in RELEASED:
        if version.manifests.filter(slot=slot, revoked_at=None).exists() and not resign:
            raise IllegalTransition(version.state, ["rollout", "yank"], asked="release")
        return
    if version.state in (VersionState.FITS, VersionState.UNPROVEN):
        return
    possible = {VersionState.REFUSED: ["inspect", "yank"], VersionState.YANKED: []}
    raise IllegalTransition(
        version.state, possible.get(VersionState(version.state), ["inspect"]), asked="release"
    )


def _targets(
    version: ModelVersion, slot: int, classes: Collection[str] | None, needed: int
) -> list[ClassVerdict]:
    """The verdicts behind the manifest's classes. needed: bytes of a slot. Raises as `release`."""
    found = [row for row in releasable(version) if classes is None or row.device_class_id in classes]
    if classes is not None and (missing := set(classes) - {row.device_class_id for row in found}):
        raise RegistryError("validation", f"class {min(missing)} neither passed nor was acknowledged")
    if not found:
        verbs = ["inspect", "yank"]
        if version.verdicts.filter(kind=VerdictKind.UNPROVEN, acknowledged_by="").exists():
            verbs.append("acknowledge")
        raise IllegalTransition(version.state, verbs, asked="release")
    slots = {row.device_class_id: row.device_class.slot_bytes for row in found}
    short = [name for name, sizes in slots.items() if slot >= len(sizes) or sizes[slot] < needed]
    if short and (classes is not None or len(short) == len(found)):
        raise RegistryError("validation", f"slot {slot} of class {short[0]} does not hold {needed:,} bytes")
    found = [row for row in found if row.device_class_id not in short]
    if len(found) > MAX_CLASSES:
        raise RegistryError(
            "validation",
            f"{len(found)} classes, a manifest targets at most {MAX_CLASSES}",
            "name the classes",
        )
    return _of_one_arena(found, is_named=classes is not None)


def _of_one_arena(found: list[ClassVerdict], *, is_named: bool) -> list[ClassVerdict]:
    """Those classes that can share a manifest, which names one arena size for all.

    The most demanding ones are left out until every class has what is asked of it; classes that were named
    are all wanted, so then it is an error, `validation`.
    """
    rows = sorted(found, key=lambda row: row.arena_bytes or 0)
    while True:
        needed, least = rows[-1].arena_bytes or 0, min(row.device_class.arena_bytes for row in rows)
        if needed <= least:
            break
        if is_named:
            text = f"class {rows[-1].device_class_id} needs {needed:,} bytes of arena, another has {least:,}"
            raise RegistryError("validation", text, "release for classes that need about the same")
        rows.pop()
    return sorted(rows, key=lambda row: row.device_class_id)


def _golden(version: ModelVersion) -> tuple[Golden, bytes]:
    """What the manifest says of the golden vectors, and the blob behind the model. Raises
    `preflight_required`.
    """
    if version.inspection is None or version.golden is None:
        raise RegistryError(
            "preflight_required",
            "there are no golden vectors, so no device could prove that it computes what was tested",
            "inspect the version where TFLM runs (x86-64 Linux)",
        )
    try:
        return make_golden(parse_golden_blob(bytes(version.golden)), version.golden_tol)
    except CodecError as error:
        text = f"the golden vectors cannot be signed: {error.text}"
        raise RegistryError("preflight_required", text) from error


def _document(
    version: ModelVersion,
    verdicts: Sequence[ClassVerdict],
    golden: Golden,
    blob: bytes,
    *,
    slot: int,
    seq: int,
    floor: int,
    now: datetime,
) -> Document:
    """The manifest to sign."""
    found, data = version.inspection or {}, bytes(version.artifact.data)
    operators: list[Operator] = [use["custom"] or use["builtin"] for use in found["operators"]]
    outputs = tuple(_tensor(spec) for spec in found["outputs"])
    return Document(
        name=version.model_id,
        version=version.version,
        seq=seq,
        floor=floor,
        classes=tuple(bytes.fromhex(row.class_id) for row in verdicts),
        size=len(data),
        sha256=bytes.fromhex(version.artifact_id),
        leaves_sha256=chunking.leaves_sha256(data, blob),
        arena_bytes=max(row.arena_bytes or 0 for row in verdicts),
        firmware=LEAST_FIRMWARE,
        operators=sorted_operators(operators),
        inputs=tuple(_tensor(spec) for spec in found["inputs"]),
        outputs=outputs,
        golden=golden,
        created=int(now.timestamp()),
        slot=slot,
        hints=hints_of({**_default_hints(operators, outputs), **version.hints}),
    )


def _tensor(spec: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec.of(DType(spec["dtype"]), spec["shape"], spec["scale"], spec["zero_point"])


def _default_hints(operators: Sequence[Operator], outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """What a classifier's own graph says: class scores, how many, and the score margin as anomaly."""
    shape = outputs[0].shape
    if len(outputs) != 1 or not {SOFTMAX, LOGISTIC} & set(operators) or len(shape) != 2 or shape[-1] < 2:
        return {}
    return {"8": 1, "11": [ANOMALY_KIND, ANOMALY_THRESHOLD], "13": shape[-1]}
