"""Versions of a model side by side: what they cost, what they compute, what they did, where they may go.

The first version named is the base that the others are told against. Nothing is measured here: figures are
those of the inspector, the probe, preflight, devices' own reports and telemetry, each with where it is from.
Accuracy on the evaluation set (this host), golden, delayed and proxy accuracy (devices) are four different
things and stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fleet.devices.models import DeviceClass
from fleet.recent import recent
from fleet.telemetry import queries
from fleet.telemetry.queries import FieldFigures
from ota.errors import RegistryError
from ota.gates.wilson import wilson_interval
from ota.inventory_figures import ClassRuns, runs_by_class
from ota.models import ClassVerdict, Manifest, ModelVersion

MOST: Final = 4
"""Versions in one comparison: what fits side by side."""
FRESH_S: Final = 30
KEPT_S: Final = 300
"""How old what devices told may be when reading it takes long (`fleet.recent`)."""
_CONFIDENCE: Final = 0.975
_CONTRACT: Final = (
    ("dtype_name", "type"),
    ("shape", "shape"),
    ("scale", "scale"),
    ("zero_point", "zero point"),
)


Counted = tuple[dict[str, FieldFigures], dict[str, list[ClassRuns]]]


@dataclass(frozen=True)
class Evaluated:
    """Accuracy on the evaluation set, measured on this host. ratio with its 95 % Wilson interval over n rows.

    is_same_set: whether the base was measured on the same bytes; only then do the two compare.
    """

    ratio: float
    lower: float
    upper: float
    n: int
    set_sha256: str
    is_same_set: bool


@dataclass(frozen=True)
class Compared:
    """One version. seq, mid: of its newest manifest, None and "" before it is signed. arena_host_bytes: least
    arena on this host, None when the model was not run. host_us: median of one inference there.

    on_devices: devices that run it, by class, with the arena they measured. field: figures of its newest
    manifest over the last days, None before it is signed.
    """

    version: str
    state: str
    sha256: str
    size: int
    seq: int | None
    mid: str
    quantisation: str
    macs: int | None
    constant_bytes: int | None
    tensors: int | None
    arena_host_bytes: int | None
    host_us: float | None
    evaluated: Evaluated | None
    on_devices: tuple[ClassRuns, ...]
    field: FieldFigures | None

    @property
    def devices(self) -> int:
        """Devices that run it."""
        return sum(one.devices for one in self.on_devices)


@dataclass(frozen=True)
class OperatorRow:
    """One kind of operator: how often each version has it, and its multiply-accumulates there.

    change: `` when every version has it, `added` when the base has not, `removed` when another has not.
    """

    name: str
    counts: tuple[int, ...]
    macs: tuple[int, ...]
    change: str


@dataclass(frozen=True)
class ContractChange:
    """One difference from the base at the edge of the model. side: `input` or `output`; was, now: as text."""

    version: str
    side: str
    position: int
    what: str
    was: str
    now: str


@dataclass(frozen=True)
class ClassCell:
    """A version's verdict for a class; kind "" when it was not judged. is_current: as the class is now."""

    kind: str
    code: str
    text: str
    arena_bytes: int | None
    is_current: bool


@dataclass(frozen=True)
class ClassRow:
    """One device class and what each version was told for it."""

    name: str
    chip: str
    is_simulated: bool
    arena_bytes: int
    cells: tuple[ClassCell, ...]


@dataclass(frozen=True)
class VersionComparison:
    """An answer; versions as asked, the base first. start, end: what field figures are over. as_of: of when
    these are, and the devices that run a version. left_out: names of versions without an inspector's report,
    of which operators and contract are not known.
    """

    model: str
    start: datetime
    end: datetime
    as_of: datetime
    versions: tuple[Compared, ...]
    operators: tuple[OperatorRow, ...]
    contract: tuple[ContractChange, ...]
    classes: tuple[ClassRow, ...]
    left_out: tuple[str, ...]


def compare_versions(model: str, names: Sequence[str], *, now: datetime) -> VersionComparison:
    """Two to four versions of a model side by side, in the order named. Nine queries at most.

    Raises RegistryError `validation` for another number of them or one named twice, `not_found` for one that
    is none; QueryError `query_timeout`.
    """
    rows = _rows(model, names)
    manifests = _newest_manifests(rows)
    base = rows[0]
    runs = sorted(row.id16 for row in manifests.values())
    mids = sorted(row.mid for row in manifests.values())
    start, end = queries.field_span(now)

    def count(at: datetime) -> Counted:
        return queries.field_figures(mids, now=at), runs_by_class(runs)

    name = f"compared:{start:%Y-%m-%d}:{','.join(runs)}"
    (figures, running), as_of = recent(name, count, now=now, fresh_s=FRESH_S, kept_s=KEPT_S)
    return VersionComparison(
        model=model,
        start=start,
        end=end,
        as_of=as_of,
        versions=tuple(_compared(row, base, manifests.get(row.pk), figures, running) for row in rows),
        operators=tuple(_operators(rows)),
        contract=tuple(change for row in rows[1:] for change in contract_changes(base, row)),
        classes=tuple(_classes(rows)),
        left_out=tuple(row.version for row in rows if row.inspection is None),
    )


def contract_changes(base: ModelVersion, row: ModelVersion) -> list[ContractChange]:
    """How inputs and outputs of `row` differ from those of `base`; nothing for one that was not inspected."""
    if base.inspection is None or row.inspection is None:
        return []
    found = []
    for side in ("input", "output"):
        before, after = base.inspection[f"{side}s"], row.inspection[f"{side}s"]
        for position in range(max(len(before), len(after))):
            was = before[position] if position < len(before) else {}
            now = after[position] if position < len(after) else {}
            if not was or not now:
                there = _described(was or now)
                pair = ("none", there) if now else (there, "none")
                found.append(ContractChange(row.version, side, position, "tensor", *pair))
                continue
            found += [
                ContractChange(row.version, side, position, word, _plain(was[key]), _plain(now[key]))
                for key, word in _CONTRACT
                if was[key] != now[key]
            ]
    return found


def _rows(model: str, names: Sequence[str]) -> list[ModelVersion]:
    if not 2 <= len(names) <= MOST:
        raise RegistryError("validation", f"name 2 to {MOST} versions, not {len(names)}")
    if len(set(names)) != len(names):
        raise RegistryError("validation", "a version is named twice")
    rows = (
        ModelVersion.objects.filter(model_id=model, version__in=names)
        .select_related("artifact")
        .defer("artifact__data", "golden")
    )
    found = {row.version: row for row in rows}
    for name in names:
        if name not in found:
            raise RegistryError("not_found", f"no version {name[:24]} of {model[:32]}")
    return [found[name] for name in names]


def _newest_manifests(rows: Sequence[ModelVersion]) -> dict[int, Manifest]:
    found = Manifest.objects.filter(version__in=[row.pk for row in rows]).defer("message", "leaves", "blob")
    return {row.version_id: row for row in found.order_by("version_id", "-seq").distinct("version_id")}


def _compared(
    row: ModelVersion,
    base: ModelVersion,
    manifest: Manifest | None,
    figures: Mapping[str, FieldFigures],
    running: Mapping[str, list[ClassRuns]],
) -> Compared:
    inspection, probe = row.inspection or {}, row.probe or {}
    return Compared(
        version=row.version,
        state=row.state,
        sha256=row.artifact_id,
        size=row.artifact.size,
        seq=manifest.seq if manifest else None,
        mid=manifest.mid if manifest else "",
        quantisation=inspection.get("quantisation", ""),
        macs=inspection.get("macs"),
        constant_bytes=inspection.get("constant_bytes"),
        tensors=inspection.get("tensors"),
        arena_host_bytes=probe.get("arena_min_bytes"),
        host_us=probe.get("invoke_us"),
        evaluated=_evaluated(row, base),
        on_devices=tuple(running.get(manifest.id16, ())) if manifest else (),
        field=figures.get(manifest.mid) if manifest else None,
    )


def _evaluated(row: ModelVersion, base: ModelVersion) -> Evaluated | None:
    said = (row.probe or {}).get("accuracy")
    if not said or not said["n"]:
        return None
    lower, upper = wilson_interval(said["right"], said["n"], confidence=_CONFIDENCE)
    return Evaluated(
        ratio=said["ratio"],
        lower=lower,
        upper=upper,
        n=said["n"],
        set_sha256=row.evaluation_id or "",
        is_same_set=row.evaluation_id == base.evaluation_id,
    )


def _operators(rows: Sequence[ModelVersion]) -> list[OperatorRow]:
    """Kinds of operators in any inspected version, those of the base first, in its order."""
    uses = [
        {use["name"]: use for use in row.inspection["operators"]} if row.inspection else None for row in rows
    ]
    names = list(dict.fromkeys(name for one in uses if one for name in one))
    found = []
    for name in names:
        has = [name in one for one in uses if one is not None]
        change = ""
        if not all(has):
            change = "removed" if uses[0] is not None and name in uses[0] else "added"
        counts = tuple(one[name]["count"] if one and name in one else 0 for one in uses)
        macs = tuple(one[name]["macs"] if one and name in one else 0 for one in uses)
        found.append(OperatorRow(name, counts, macs, change))
    return found


def _classes(rows: Sequence[ModelVersion]) -> list[ClassRow]:
    verdicts = {
        (row.version_id, row.device_class_id): row
        for row in ClassVerdict.objects.filter(version__in=[row.pk for row in rows])
    }
    return [
        ClassRow(
            name=one.name,
            chip=one.chip,
            is_simulated=one.is_simulated,
            arena_bytes=one.arena_bytes,
            cells=tuple(_cell(verdicts.get((row.pk, one.name)), one) for row in rows),
        )
        for one in DeviceClass.objects.all()
    ]


def _cell(row: ClassVerdict | None, device_class: DeviceClass) -> ClassCell:
    if row is None:
        return ClassCell("", "", "not judged", None, False)
    return ClassCell(row.kind, row.code, row.text, row.arena_bytes, row.class_id == device_class.class_id)


def _described(spec: Mapping[str, Any]) -> str:
    return f"{spec['dtype_name']} {_plain(spec['shape'])}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value)) or "scalar"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
