"""What a version's page shows beside the verdict: where it lies in memory, what changed, where it is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.console.memory_map import MemoryMap, memory_maps
from fleet.devices.models import DeviceClass
from fleet.mqtt.codec.errors import CodecError
from ota import keys
from ota.documents import DocumentError
from ota.keys import KeysError
from ota.manifest_text import manifest_text
from ota.models import Manifest, ModelVersion
from ota.version_comparison import ContractChange, contract_changes


@dataclass(frozen=True)
class Change:
    """One figure of the version before and of this one. share: of the difference, None where it has none."""

    name: str
    unit: str
    before: int
    after: int

    @property
    def share(self) -> float | None:
        """The difference as a share of what was before."""
        return self.after / self.before - 1 if self.before else None


@dataclass(frozen=True)
class Difference:
    """From another version of the line: the parent, or without one the version uploaded before."""

    base: ModelVersion
    is_parent: bool
    figures: list[Change]
    added: list[str]
    removed: list[str]
    contract: list[ContractChange]


def difference(row: ModelVersion) -> Difference | None:
    """How a version differs from what it was made from; None for the first of its line, or when one of the
    two was not inspected. At most one query beside that of the parent.
    """
    base = row.parent
    if base is None:
        before = ModelVersion.objects.filter(model_id=row.model_id, pk__lt=row.pk, inspection__isnull=False)
        base = before.defer("golden").order_by("-pk").first()
    if base is None or base.inspection is None or row.inspection is None:
        return None
    was, now = base.inspection, row.inspection
    figures = [
        Change(name, unit, was[key], now[key])
        for name, unit, key in (
            ("Size", "bytes", "size"),
            ("Constants", "bytes", "constant_bytes"),
            ("Multiply-accumulates", "", "macs"),
        )
    ]
    arenas = [(one.probe or {}).get("arena_min_bytes") for one in (base, row)]
    if arenas[0] and arenas[1]:
        figures.append(Change("Arena on this host", "bytes", arenas[0], arenas[1]))
    before_names, names = ({use["name"] for use in one["operators"]} for one in (was, now))
    return Difference(
        base=base,
        is_parent=row.parent is not None,
        figures=figures,
        added=sorted(names - before_names),
        removed=sorted(before_names - names),
        contract=contract_changes(base, row),
    )


def maps(
    row: ModelVersion, manifest: Manifest | None, table: list[dict[str, Any]], classes: list[DeviceClass]
) -> list[MemoryMap]:
    """The memory of each class that the version was judged for and not refused; [] before the inspection."""
    if row.inspection is None:
        return []
    judged = {line["class"]: line["arena_bytes"] for line in table if line["kind"] in ("pass", "unproven")}
    golden = (row.probe or {}).get("golden") or {}
    blob = golden.get("bytes", 0) if golden.get("form") == "blob" else 0
    return memory_maps(
        row.inspection["size"],
        blob,
        row.probe or {},
        judged,
        [one for one in classes if one.name in judged],
        slot=manifest.slot if manifest else 0,
    )


def verify_command(manifest: Manifest) -> str:
    """The command that checks what was signed on a machine of one's own, with the root keys in it; "" while
    the installation has no trust document. Its three files are linked beside it.
    """
    try:
        document, _ = keys.current_trust()
    except KeysError:
        return ""
    roots = " ".join(f"--root {key.hex()}" for key in document.roots)
    return (
        f"tinyfleet models verify --manifest {manifest.mid}.manifest --model {manifest.mid}.tflite"
        f" --trust trust.document --threshold {document.root_threshold} {roots}"
    )


def text_of(manifest: Manifest) -> str:
    """The manifest as text; what is wrong with it when it cannot be read."""
    try:
        return manifest_text(bytes(manifest.message))
    except (CodecError, DocumentError) as error:
        return f"{error.code}: {error.text}"
