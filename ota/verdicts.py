"""Inspection of an uploaded version and its verdict per device class, stored.

Whatever is wrong with a file ends as a stored verdict on its row: an upload never disappears, and nothing
here raises because of model bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction

from fleet import hints
from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.devices.models import DeviceClass
from ota.choices import VerdictKind, VersionState
from ota.examination import Examination, examine
from ota.inspector import InspectionError, Reason
from ota.locks import try_lock
from ota.models import ClassVerdict, ModelVersion
from ota.preflight import ClassSpec, Verdict, preflight
from ota.queues import enqueue
from ota.transitions import IllegalTransition

log = structlog.get_logger(__name__)

OPEN: Final = (
    VersionState.UPLOADED,
    VersionState.INSPECTING,
    VersionState.REFUSED,
    VersionState.UNPROVEN,
    VersionState.FITS,
)
"""States in which a version may still change."""
RELEASED: Final = (VersionState.SIGNED, VersionState.STAGING, VersionState.STAGED)
LEAST_FIRMWARE: Final = (1, 0, 0)
"""The first firmware that speaks protocol 1; manifest key 11."""
_OURS = Reason(
    "internal",
    "the inspection itself failed; the log of the worker says why",
    "inspect the version again; if it fails again, report the file",
)


def class_spec(row: DeviceClass, slot: int = 0) -> ClassSpec:
    """A device class as preflight sees it; a slot that the class does not have holds nothing."""
    return ClassSpec(
        name=row.name,
        chip=row.chip,
        arena_bytes=row.arena_bytes,
        slot_bytes=row.slot_bytes[slot] if slot < len(row.slot_bytes) else 0,
        operators=frozenset(row.operators),
        custom_operators=frozenset(row.custom_operators),
        firmware_version=firmware(row.firmware_version),
        esp_nn_version=row.esp_nn_version,
        simulated=row.is_simulated,
    )


def firmware(text: str) -> tuple[int, int, int]:
    """`1.4.0` as three numbers; (0, 0, 0) for anything else, which is older than every requirement."""
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isdigit() and len(part) < 6 for part in parts):
        return (0, 0, 0)
    major, minor, patch = map(int, parts)
    return (major, minor, patch)


def request_inspection(version: ModelVersion, *, actor: Actor, now: datetime) -> None:
    """Have a version inspected again, e.g. after a device class changed. Verdicts of a released version are
    renewed, its bytes never change.

    Raises IllegalTransition for a version that was taken back.
    """
    with transaction.atomic():
        rows = ModelVersion.objects.filter(pk=version.pk)
        found = rows.filter(state__in=OPEN).update(state=VersionState.UPLOADED)
        if not found and not rows.filter(state__in=RELEASED).exists():
            version.refresh_from_db(fields=["state"])
            raise IllegalTransition(version.state, [], asked="inspect")
        audit.record(
            actor=actor, verb="version.inspect", subject_kind="version", subject_id=str(version.pk), at=now
        )
        enqueue("ota.inspect_version", version.pk)


def inspect_version(version_id: int, *, now: datetime) -> bool:
    """Inspect, probe and preflight a version and store what was found. True when this call stored a verdict.

    Idempotent: a second call finds nothing to do, a call beside a running one returns at once, and a killed
    one is repeated. The file's faults never raise; a fault of our own is stored as `internal` and raised.
    """
    with try_lock(f"ota.inspect_version:{version_id}") as is_held:
        rows = ModelVersion.objects.select_related("artifact", "evaluation")
        version = rows.filter(pk=version_id).first() if is_held else None
        if version is None:
            return False
        is_released = version.state in RELEASED
        if not is_released and version.state not in (VersionState.UPLOADED, VersionState.INSPECTING):
            return False
        ModelVersion.objects.filter(pk=version_id, state=VersionState.UPLOADED).update(
            state=VersionState.INSPECTING
        )
        hints.changed(hints.version(version_id))
        found, reasons = _examined(version, now)
        if is_released:
            _store_verdicts(version, _judged(version, found, reasons), now)
            return True
        return _store(version, found, reasons, now)


def _examined(version: ModelVersion, now: datetime) -> tuple[Examination | None, tuple[Reason, ...]]:
    """(what was found, why every device refuses it). No examination when the bytes are no model."""
    evaluation = bytes(version.evaluation.data) if version.evaluation else None
    try:
        found = examine(
            bytes(version.artifact.data),
            evaluation=evaluation,
            declared_accuracy=version.declared_accuracy,
        )
    except InspectionError as error:
        return None, (Reason(error.code, error.text, error.fix),)
    except SoftTimeLimitExceeded:
        return None, (Reason("probe_timeout", "the inspection took longer than a task may"),)
    except Exception:
        _store(version, None, (_OURS,), now)
        raise
    return found, found.reasons


def _judged(
    version: ModelVersion, found: Examination | None, reasons: Sequence[Reason]
) -> list[tuple[DeviceClass, Verdict]]:
    judged = []
    for row in DeviceClass.objects.all():
        spec = class_spec(row)
        if found is None:
            verdict = Verdict(spec.name, VerdictKind.REFUSE.value, tuple(reasons))
        else:
            verdict = preflight(
                found.inspection,
                found.probe,
                spec,
                reasons=found.reasons,
                missing=found.missing,
                golden_bytes=found.golden_blob_bytes,
                least_firmware=LEAST_FIRMWARE,
            )
        judged.append((row, verdict))
    return judged


def _store(
    version: ModelVersion, found: Examination | None, reasons: Sequence[Reason], now: datetime
) -> bool:
    """Write everything found in one transaction, unless the version was released or taken back meanwhile."""
    judged = _judged(version, found, reasons)
    state, code, text, fix = _overall(reasons, found, [verdict for _, verdict in judged])
    golden = found.golden if found else None
    with transaction.atomic():
        written = ModelVersion.objects.filter(
            pk=version.pk, state__in=(VersionState.UPLOADED, VersionState.INSPECTING)
        ).update(
            state=state,
            code=code,
            text=text,
            fix=fix,
            inspection=found.inspection.to_json() if found else None,
            probe=_probe_json(found),
            golden=golden.blob if golden else None,
            golden_tol=golden.tolerance if golden else 2,
        )
        if not written:
            return False
        _store_verdicts(version, judged, now)
        audit.record(
            actor=SYSTEM,
            verb=f"version.{state}",
            subject_kind="version",
            subject_id=str(version.pk),
            at=now,
            after={
                "state": state,
                "code": code,
                "classes": {row.name: verdict.kind for row, verdict in judged},
            },
        )
    return True


def _store_verdicts(
    version: ModelVersion, judged: Sequence[tuple[DeviceClass, Verdict]], now: datetime
) -> None:
    """One row per class. An acknowledgement stays only while it covers the same class and the same gaps."""
    known = {row.device_class_id: row for row in ClassVerdict.objects.filter(version=version)}
    for device_class, verdict in judged:
        before = known.get(device_class.name)
        keeps = (
            before is not None
            and verdict.kind == before.kind == VerdictKind.UNPROVEN
            and before.class_id == device_class.class_id
            and set(verdict.missing) <= set(before.missing)
        )
        values: dict[str, Any] = {
            "class_id": device_class.class_id,
            "kind": verdict.kind,
            "code": verdict.code,
            "text": verdict.text,
            "fix": verdict.fix,
            "missing": list(verdict.missing),
            "arena_bytes": verdict.arena.signed_bytes if verdict.arena else None,
            "at": now,
        }
        if not keeps:
            values |= {"acknowledged_by": "", "acknowledged_reason": ""}
        ClassVerdict.objects.update_or_create(version=version, device_class=device_class, defaults=values)


def _overall(
    reasons: Sequence[Reason], found: Examination | None, verdicts: Sequence[Verdict]
) -> tuple[str, str, str, str]:
    """(state, code, text, fix) of the version as a whole: it fits when at least one class passes."""
    if reasons:
        text = "; ".join(reason.text for reason in reasons)
        fix = "; ".join(dict.fromkeys(reason.fix for reason in reasons if reason.fix))
        return VersionState.REFUSED, reasons[0].code, text, fix
    kinds = {verdict.kind for verdict in verdicts}
    if VerdictKind.PASS in kinds:
        return VersionState.FITS, "", "", ""
    if kinds == {VerdictKind.REFUSE.value}:
        worst = verdicts[0]
        text = "no device class can have it: " + "; ".join(
            dict.fromkeys(verdict.text for verdict in verdicts)
        )
        return VersionState.REFUSED, worst.code, text, worst.fix
    unproven = [verdict.text for verdict in verdicts if verdict.kind == VerdictKind.UNPROVEN]
    text = "; ".join(dict.fromkeys(unproven)) or "there is no device class to judge it for"
    fix = "give what is missing, or acknowledge it for a class with a reason"
    return VersionState.UNPROVEN, "", text, fix


def _probe_json(found: Examination | None) -> dict[str, Any] | None:
    """The probe's figures with what the evaluation set and the golden vectors said; None when nothing ran."""
    if found is None or found.probe is None:
        return None
    rest = found.to_json()
    return {
        **found.probe.to_json(),
        "accuracy": rest["accuracy"],
        "golden": rest["golden"],
        "missing": rest["missing"],
        "notes": rest["notes"],
    }
