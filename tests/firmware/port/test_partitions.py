"""The partition tables: no overlap, all of the flash, banks in pairs, aligned for mapping."""

from __future__ import annotations

import itertools

import pytest

from tests.firmware.port import partitions
from tests.firmware.port.partitions import TABLES, read

SECTOR, MAPPED = 4096, 65_536
BOOTLOADER_END = 0x9000  # bootloader and partition table at 0x8000


@pytest.mark.parametrize("table", TABLES)
def test_partitions_follow_each_other_and_fill_the_flash(table: str) -> None:
    parts = read(table)
    assert parts[0].offset == BOOTLOADER_END
    for before, after in itertools.pairwise(parts):
        gap = after.offset - (before.offset + before.size)
        assert 0 <= gap < MAPPED, (before.name, after.name)  # a gap only where alignment asks for it
    assert parts[-1].offset + parts[-1].size == TABLES[table] << 20


@pytest.mark.parametrize("table", TABLES)
def test_banks_come_in_equal_pairs_and_map_without_waste(table: str) -> None:
    parts = {one.name: one for one in read(table)}
    slots = len(partitions.banks(table))
    assert slots == (2 if table == "partitions.csv" else 4)
    for slot in range(slots):
        first, second = parts[f"s{slot}_a"], parts[f"s{slot}_b"]
        assert first.size == second.size
        for bank in (first, second):
            assert bank.kind == "0x40"
            assert bank.offset % MAPPED == 0 == bank.size % MAPPED
    numbers = [one.subtype for one in parts.values() if one.kind == "0x40"]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("table", TABLES)
def test_areas_have_the_sizes_of_the_flash_format(table: str) -> None:
    parts = {one.name: one for one in read(table)}
    assert parts["fc_meta"].size == 8 * SECTOR
    assert parts["fc_fwhdr"].size == 2 * SECTOR
    assert parts["ota_0"].size == parts["ota_1"].size
    for app in ("ota_0", "ota_1"):
        assert parts[app].offset % MAPPED == 0
    assert all(one.offset % SECTOR == 0 == one.size % SECTOR for one in parts.values())
