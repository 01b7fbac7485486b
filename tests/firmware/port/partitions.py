"""The partition tables of the firmware, read for tests."""

from __future__ import annotations

from dataclasses import dataclass

from device_firmware.host.build import FIRMWARE_DIR

TABLES = {"partitions.csv": 4, "partitions_8mb.csv": 8, "partitions_16mb.csv": 16}
"""File names with the size of the flash in MiB."""


@dataclass(frozen=True)
class Partition:
    """One line. offset, size: bytes."""

    name: str
    kind: str
    subtype: str
    offset: int
    size: int


def read(table: str) -> list[Partition]:
    """The lines of a table, in order."""
    found = []
    for line in (FIRMWARE_DIR / table).read_text().splitlines():
        if line and not line.startswith("#"):
            name, kind, subtype, offset, size = (cell.strip() for cell in line.split(","))
            found.append(Partition(name, kind, subtype, int(offset, 16), int(size, 16)))
    return found


def banks(table: str) -> list[int]:
    """Bytes of each slot's first bank."""
    sizes = {one.name: one.size for one in read(table)}
    return [sizes[f"s{slot}_a"] for slot in range(4) if f"s{slot}_a" in sizes]
