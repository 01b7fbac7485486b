"""Models and their versions: uploads stored by SHA-256, verdicts acknowledged, versions released and taken
back.

A plausible file becomes a row at once and is inspected next; what the inspection finds is a verdict on that
row. Only what never became a row is an error here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any, Final

from django.conf import settings
from django.db import IntegrityError, transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.models import DeviceClass
from fleet.mqtt import topics
from ota.choices import ROLLOUT_TERMINAL, VerdictKind, VersionState
from ota.errors import RegistryError
from ota.hints import Hints, contradiction
from ota.models import Artifact, ClassVerdict, MLModel, ModelVersion, Rollout
from ota.queues import enqueue
from ota.releases import hints_of
from ota.releases import releasable as releasable
from ota.releases import release as release
from ota.transitions import IllegalTransition
from ota.verdicts import OPEN, RELEASED
from ota.verdicts import inspect_version as inspect_version
from ota.verdicts import request_inspection as request_inspection

MIN_MODEL_BYTES: Final = 8
_HINT_NUMBERS: Final = {field.name: number for number, field in enumerate(dataclasses.fields(Hints), start=1)}


def create_model(name: str, description: str = "", *, actor: Actor, now: datetime) -> MLModel:
    """Add a model line. Raises RegistryError `validation` for its name or text, `duplicate` when the name is
    taken.
    """
    if not topics.is_model_name(name):
        raise RegistryError(
            "validation",
            "a model name is 1 to 32 of a-z, 0-9, dot, underscore and hyphen, not starting with a sign",
        )
    if len(description) > 256:
        raise RegistryError("validation", f"a description has at most 256 characters, not {len(description)}")
    try:
        with transaction.atomic():
            row = MLModel.objects.create(
                name=name, description=description, created_at=now, created_by=actor.name
            )
            audit.record(actor=actor, verb="model.create", subject_kind="model", subject_id=name, at=now)
    except IntegrityError:
        raise RegistryError(
            "duplicate", f"there is a model {name} already", existing={"model": name}
        ) from None
    return row


def upload(
    model_name: str,
    version: str,
    data: bytes,
    *,
    evaluation: bytes | None = None,
    declared_accuracy: float | None = None,
    hints: Mapping[str, Any] | None = None,
    parent: ModelVersion | None = None,
    notes: str = "",
    actor: Actor,
    now: datetime,
) -> ModelVersion:
    """Store a `.tflite` as a new version and have it inspected after commit. A model line that does not exist
    yet is made.

    evaluation: an `.npz` (`ota.evaluation`). declared_accuracy: the uploader's own figure, in [0, 1]. hints:
    manifest key 21 by name or number; digests as hex. Raises RegistryError before anything is stored:
    `too_large`, `media_type` for what cannot be a model or an `.npz`, `validation`, `io_contract` for hints
    that contradict each other, and `duplicate` with the version that has the same bytes or name.
    """
    _check_upload(data, evaluation)
    if not topics.is_display_version(version):
        raise RegistryError("validation", "a version is 1 to 24 printable ASCII characters without space")
    if declared_accuracy is not None and not 0 <= declared_accuracy <= 1:
        raise RegistryError("validation", f"declared accuracy {declared_accuracy} is not in 0..1")
    if parent is not None and parent.model_id != model_name:
        raise RegistryError(
            "validation", f"the parent is a version of {parent.model_id}, not of {model_name}"
        )
    known = plain_hints(hints or {})
    if not MLModel.objects.filter(pk=model_name).exists():
        _ensure_model(model_name, actor=actor, now=now)
    try:
        with transaction.atomic():
            row = ModelVersion.objects.create(
                model_id=model_name,
                version=version,
                artifact=_artifact(data, now),
                evaluation=_artifact(evaluation, now) if evaluation is not None else None,
                parent=parent,
                hints=known,
                declared_accuracy=declared_accuracy,
                notes=notes,
                created_at=now,
                created_by=actor.name,
            )
            audit.record(
                actor=actor,
                verb="version.upload",
                subject_kind="version",
                subject_id=str(row.pk),
                at=now,
                after={
                    "model": model_name,
                    "version": version,
                    "sha256": row.artifact_id,
                    "size": len(data),
                    **({"parent": parent.version} if parent is not None else {}),
                },
            )
            enqueue("ota.inspect_version", row.pk)
    except IntegrityError:
        raise _duplicate(model_name, version, hashlib.sha256(data).hexdigest()) from None
    return row


def read_bounded(stream: IO[bytes], limit: int) -> bytes:
    """All of a stream of at most `limit` bytes; reading stops one byte behind. Raises RegistryError
    `too_large`.
    """
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise RegistryError("too_large", f"more than {limit:,} bytes, which is all that is accepted")
    return data


def plain_hints(given: Mapping[str, Any]) -> dict[str, Any]:
    """Hints by number, as stored: JSON types, digests as hex.

    Raises RegistryError `validation` for an unknown or malformed hint, `io_contract` for hints that
    contradict each other.
    """
    numbers: dict[int, Any] = {}
    for key, value in given.items():
        number = _HINT_NUMBERS.get(str(key)) or (int(key) if str(key).isdigit() and len(str(key)) < 4 else 0)
        if number not in _HINT_NUMBERS.values() or number in numbers:
            raise RegistryError("validation", f"hint {str(key)[:40]!r} is unknown or given twice")
        numbers[number] = list(value) if isinstance(value, tuple) else value
    hints = hints_of({str(number): value for number, value in numbers.items()})
    if text := contradiction(hints):
        raise RegistryError("io_contract", text)
    return {str(number): value for number, value in sorted(numbers.items())}


def acknowledge(
    version: ModelVersion, class_name: str, *, reason: str, actor: Actor, now: datetime
) -> ClassVerdict:
    """Accept that something about a version is unproven for a device class; the reason goes into the audit
    trail.

    Raises RegistryError `not_found` without a verdict for that class, `validation` without a reason, and
    IllegalTransition for a verdict that is not `unproven` or is acknowledged already.
    """
    if not reason.strip():
        raise RegistryError("validation", "an acknowledgement needs a reason")
    with transaction.atomic():
        rows = ClassVerdict.objects.filter(version=version, device_class_id=class_name)
        open_rows = rows.filter(kind=VerdictKind.UNPROVEN, acknowledged_by="")
        done = open_rows.update(acknowledged_by=actor.name, acknowledged_reason=reason.strip())
        row = rows.first()
        if row is None:
            raise RegistryError("not_found", f"{version} has no verdict for class {class_name}")
        if not done:
            raise IllegalTransition(row.kind, [], asked="acknowledge")
        audit.record(
            actor=actor,
            verb="verdict.acknowledge",
            subject_kind="version",
            subject_id=str(version.pk),
            at=now,
            after={"class": class_name, "missing": row.missing},
            reason=reason.strip(),
        )
    return row


def yank(version: ModelVersion, *, reason: str, actor: Actor, now: datetime) -> None:
    """Take a version out of the choice for new rollouts. Devices that run it keep it.

    Raises RegistryError `in_use` while an unfinished rollout offers it, IllegalTransition when it is taken
    back already.
    """
    with transaction.atomic():
        rows = ModelVersion.objects.filter(pk=version.pk, state__in=[*OPEN, *RELEASED])
        if not rows.update(state=VersionState.YANKED):
            version.refresh_from_db(fields=["state"])
            raise IllegalTransition(version.state, [], asked="yank")
        live = Rollout.objects.filter(manifest__version=version).exclude(state__in=ROLLOUT_TERMINAL).first()
        if live is not None:
            raise RegistryError(
                "in_use", f"rollout {live.name} offers this version", existing={"rollout": str(live.pk)}
            )
        audit.record(
            actor=actor,
            verb="version.yank",
            subject_kind="version",
            subject_id=str(version.pk),
            at=now,
            before={"state": version.state},
            after={"state": VersionState.YANKED.value},
            reason=reason,
        )
    version.state = VersionState.YANKED


def allowed(version: ModelVersion) -> list[str]:
    """The verbs that are possible in a version's state, for the console and errors."""
    if version.state == VersionState.YANKED:
        return []
    if version.state in RELEASED:
        return ["inspect", "rollout", "yank"]
    verbs = ["inspect", "yank"]
    if releasable(version):
        verbs.append("release")
    if version.verdicts.filter(kind=VerdictKind.UNPROVEN, acknowledged_by="").exists():
        verbs.append("acknowledge")
    return sorted(verbs)


def preflight_table(version: ModelVersion) -> list[dict[str, Any]]:
    """One row per device class: verdict, code, text, fix, what is missing, arena, acknowledgement.

    is_current is False when the class changed since it was judged, or was never judged: inspect again.
    """
    verdicts = {row.device_class_id: row for row in version.verdicts.all()}
    table = []
    for device_class in DeviceClass.objects.all():
        row = verdicts.get(device_class.name)
        table.append(
            {
                "class": device_class.name,
                "chip": device_class.chip,
                "is_simulated": device_class.is_simulated,
                "kind": row.kind if row else "",
                "code": row.code if row else "",
                "text": row.text if row else "not judged yet",
                "fix": row.fix if row else "inspect the version again",
                "missing": row.missing if row else [],
                "arena_bytes": row.arena_bytes if row else None,
                "class_arena_bytes": device_class.arena_bytes,
                "acknowledged_by": row.acknowledged_by if row else "",
                "acknowledged_reason": row.acknowledged_reason if row else "",
                "is_current": row is not None and row.class_id == device_class.class_id,
            }
        )
    return table


def _check_upload(data: bytes, evaluation: bytes | None) -> None:
    limit = settings.MODEL_UPLOAD_BYTES
    if len(data) > limit:
        raise RegistryError("too_large", f"the model is {len(data):,} bytes, at most {limit:,} are accepted")
    if len(data) < MIN_MODEL_BYTES:
        raise RegistryError(
            "media_type", f"{len(data)} bytes cannot be a .tflite file", "choose the exported file"
        )
    if evaluation is None:
        return
    limit = settings.EVALUATION_UPLOAD_BYTES
    if len(evaluation) > limit:
        raise RegistryError(
            "too_large", f"the evaluation set is {len(evaluation):,} bytes, at most {limit:,} are accepted"
        )
    if evaluation[:2] != b"PK":
        raise RegistryError(
            "media_type", "the evaluation set is not an .npz file", "save it with numpy.savez(x=..., y=...)"
        )


def _ensure_model(name: str, *, actor: Actor, now: datetime) -> None:
    try:
        create_model(name, actor=actor, now=now)
    except RegistryError as error:
        if error.code != "duplicate":  # somebody else made it meanwhile
            raise


def _artifact(data: bytes, now: datetime) -> Artifact:
    digest = hashlib.sha256(data).hexdigest()
    row, _ = Artifact.objects.get_or_create(
        sha256=digest, defaults={"size": len(data), "data": data, "created_at": now}
    )
    return row


def _duplicate(model_name: str, version: str, sha256: str) -> RegistryError:
    rows = ModelVersion.objects.filter(model_id=model_name)
    same = rows.filter(artifact_id=sha256).first()
    found = same or rows.filter(version=version).first()
    what = "has exactly these bytes" if same else "is the name of other bytes"
    existing = {} if found is None else {"model": model_name, "version": found.version, "state": found.state}
    return RegistryError(
        "duplicate", f"version {existing.get('version', version)} of {model_name} {what}", existing=existing
    )
