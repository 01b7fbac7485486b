"""JSON of rows that several endpoints answer with."""

from datetime import datetime
from typing import Any

from fleet.accounts.models import ApiToken, AuditEvent
from fleet.devices.models import Device, DeviceClass, DeviceEvent, DeviceGroup, DeviceSlot
from ota.inventory import Name
from ota.models import ClassVerdict, Manifest, MLModel, ModelVersion, Staging


def stamp(at: datetime | None) -> str | None:
    """RFC 3339, UTC, with Z."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")[:-4] + "Z" if at else None


def _bank(id16: str, seq: int | None, names: dict[str, Name]) -> dict[str, Any] | None:
    if not id16:
        return None
    name = names.get(id16)
    return {
        "mid": id16[:16],
        "model": name.model if name else None,
        "version": name.version if name else None,
        "seq": seq,
    }


def slot_json(slot: DeviceSlot, names: dict[str, Name]) -> dict[str, Any]:
    """A slot with its two banks; a digest the registry does not know has model and version null."""
    return {
        "slot": slot.slot,
        "state": slot.state,
        "code": slot.code,
        "detail": slot.detail,
        "have": slot.have,
        "total": slot.total,
        "attempt": slot.attempt,
        "run": _bank(slot.run, slot.run_seq, names),
        "other": _bank(slot.other, slot.other_seq, names),
        "arena_used": slot.arena_used,
        "selftest": slot.selftest,
        "updated_at": stamp(slot.updated_at),
    }


def device_json(row: Device, names: dict[str, Name]) -> dict[str, Any]:
    """A device as last reported."""
    return {
        "id": row.id,
        "class": row.device_class_id,
        "presence": row.presence,
        "chip": row.chip,
        "firmware": row.firmware_version,
        "trust_version": row.trust_version,
        "desired_counter": row.desired_counter,
        "is_stale": row.is_stale,
        "refusal": row.refusal_code,
        "reset_reason": row.reset_reason,
        "rejected_config": row.rejected_config,
        "enrolled_at": stamp(row.enrolled_at),
        "last_seen_at": stamp(row.last_seen_at),
        "quarantined_at": stamp(row.quarantined_at),
        "retired_at": stamp(row.retired_at),
        "quarantine_reason": row.quarantine_reason,
        "tags": row.tags,
        "attributes": row.attributes,
        "slots": [slot_json(slot, names) for slot in row.slots.all()],
    }


def device_class_json(row: DeviceClass) -> dict[str, Any]:
    """A device class."""
    return {
        "name": row.name,
        "class_id": row.class_id,
        "chip": row.chip,
        "simulated": row.is_simulated,
        "arena_bytes": row.arena_bytes,
        "slot_bytes": row.slot_bytes,
        "operators": row.operators,
        "custom_operators": row.custom_operators,
        "esp_nn_version": row.esp_nn_version,
        "firmware_version": row.firmware_version,
        "description": row.description,
        "rev": row.rev,
    }


def group_json(row: DeviceGroup) -> dict[str, Any]:
    """A group, without its members."""
    return {
        "name": row.name,
        "kind": row.kind,
        "q": row.q,
        "description": row.description,
        "rev": row.rev,
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
        "changed_at": stamp(row.changed_at),
    }


def event_json(row: DeviceEvent) -> dict[str, Any]:
    """One line of a device's timeline."""
    return {
        "id": row.pk,
        "at": stamp(row.at),
        "kind": row.kind,
        "code": row.code,
        "text": row.text,
        "data": row.data,
    }


def model_json(row: MLModel) -> dict[str, Any]:
    """A model line."""
    return {
        "name": row.name,
        "description": row.description,
        "last_seq": row.last_seq,
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
    }


def verdict_json(row: ClassVerdict) -> dict[str, Any]:
    """Preflight's answer for one class."""
    return {
        "class": row.device_class_id,
        "kind": row.kind,
        "code": row.code,
        "text": row.text,
        "fix": row.fix,
        "missing": row.missing,
        "arena_bytes": row.arena_bytes,
        "acknowledged_by": row.acknowledged_by,
        "acknowledged_reason": row.acknowledged_reason,
    }


def manifest_json(row: Manifest) -> dict[str, Any]:
    """A signed manifest."""
    return {
        "id": row.id,
        "mid": row.mid,
        "slot": row.slot,
        "seq": row.seq,
        "floor": row.floor,
        "chunks": row.chunks,
        "kids": row.kids,
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
        "revoked_at": stamp(row.revoked_at),
    }


def staging_json(row: Staging, chunks: int) -> dict[str, Any]:
    """How far a manifest's chunks are."""
    return {
        "state": row.state,
        "published": row.published,
        "chunks": chunks,
        "publishes": row.publishes,
        "verified_at": stamp(row.verified_at),
        "error": row.error,
    }


def version_json(row: ModelVersion, *, is_full: bool = True) -> dict[str, Any]:
    """A version; with is_full also the inspector's and the probe's reports and the verdicts."""
    # a list has read the manifests of all its versions before (`routes.models.list_versions`)
    newest = row.manifests.all() if not is_full else row.manifests.order_by("-seq")[:1]
    manifest = max(newest, key=lambda one: one.seq, default=None)
    staging: Staging | None = getattr(manifest, "staging", None)
    body: dict[str, Any] = {
        "id": row.pk,
        "model": row.model_id,
        "version": row.version,
        "state": row.state,
        "sha256": row.artifact_id,
        "size": row.artifact.size,
        "code": row.code,
        "text": row.text,
        "fix": row.fix,
        "declared_accuracy": row.declared_accuracy,
        "parent": row.parent.version if row.parent else None,
        "has_evaluation": row.evaluation_id is not None,
        "manifest": manifest_json(manifest) if manifest else None,
        "staging": staging_json(staging, manifest.chunks) if staging and manifest else None,
        "created_at": stamp(row.created_at),
        "created_by": row.created_by,
    }
    if is_full:
        body["verdicts"] = [verdict_json(item) for item in row.verdicts.order_by("device_class_id")]
        body["inspection"] = row.inspection
        body["probe"] = row.probe
    return body


def token_json(row: ApiToken) -> dict[str, Any]:
    """A token without its secrets. former_secret_until: its secret before is taken until then, too;
    former_secret_used_at: when it last was.
    """
    return {
        "id": row.public_id,
        "name": row.name,
        "owner": row.owner.username,
        "scopes": row.scopes,
        "groups": row.group_limit,
        "networks": row.networks,
        "rev": row.rev,
        "former_secret_until": stamp(row.former_until),
        "former_secret_used_at": stamp(row.former_used_at),
        "created_at": stamp(row.created_at),
        "expires_at": stamp(row.expires_at),
        "last_used_at": stamp(row.last_used_at),
        "revoked_at": stamp(row.revoked_at),
    }


def audit_json(row: AuditEvent) -> dict[str, Any]:
    """One row of the audit trail."""
    return {
        "id": str(row.id),
        "at": stamp(row.at),
        "actor": {"kind": row.actor_kind, "name": row.actor},
        "verb": row.verb,
        "subject": {"kind": row.subject_kind, "id": row.subject_id},
        "before": row.before,
        "after": row.after,
        "reason": row.reason,
        "request_id": row.request_id,
        "source_ip": row.source_ip,
    }
