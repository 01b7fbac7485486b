"""Which model and version a reported digest is: one query for a page of slots."""

import dataclasses
from collections.abc import Iterable

from fleet.devices.models import DeviceSlot
from fleet.devices.selection import RunName
from ota.models import Manifest

_NAMED = ("id", "mid", "seq", "version__model_id", "version__version")
"""Of manifest and version what a name is made of: bytes and reports are not read for it."""


@dataclasses.dataclass(frozen=True)
class Name:
    """Model and version behind a manifest id."""

    model: str
    version: str
    seq: int
    manifest_id: str


def names(slots: Iterable[DeviceSlot]) -> dict[str, Name]:
    """Names by id16 (hex) for everything that these slots run, hold or are to run. Unknown digests are
    absent.
    """
    wanted = {id16 for slot in slots for id16 in (slot.run, slot.other, slot.target) if id16}
    mids = {id16[:16] for id16 in wanted}
    found = Manifest.objects.filter(mid__in=mids).select_related("version").only(*_NAMED)
    return {
        row.id16: Name(row.version.model_id, row.version.version, row.seq, row.id)
        for row in found
        if row.id16 in wanted
    }


def run_names() -> list[RunName]:
    """Model and version of every manifest there is, by what devices report, for queries about devices."""
    rows = Manifest.objects.values_list("id", "version__model_id", "version__version")
    return [RunName(manifest_id[:32], model, version) for manifest_id, model, version in rows]
