"""One list of names and numbers: SPEC.md, the C header and the Python enumerations say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fleet.mqtt.codec import names
from tests.vectors import generate

FIRMWARE = Path(__file__).parents[2] / "device_firmware"
SPEC = (FIRMWARE / "SPEC.md").read_text()
HEADER = (FIRMWARE / "components/fleet_core/include/fleet_core/codes.h").read_text()


def spec_list(beginning: str) -> dict[str, int]:
    """`{name: number}` of the list in backquotes that follows `beginning` in SPEC.md."""
    match = re.search(
        re.escape(beginning) + r"[^`]*`([^`]*)`",
        SPEC.replace("(`code` in `reported`, C `FC_ERR_<NAME>` = -number)", ""),
    )
    assert match is not None, beginning
    plain = re.sub(r"\[[^\]]*\]", "", match[1])
    entries = [re.match(r"\s*(\d+) (.*)", entry, re.S) for entry in plain.split(",")]
    return {
        re.sub(r"[ -]+", "_", " ".join(entry[2].split()).lower()): int(entry[1]) for entry in entries if entry
    }


def labels(enum: type[names.WireEnum], *, skip_zero: bool = False) -> dict[str, int]:
    return {member.label: int(member) for member in enum if member or not skip_zero}


@pytest.mark.parametrize(
    ("beginning", "enum"),
    [
        ("Backend-only verdict codes", names.VerdictCode),
        ("Update states", names.UpdateState),
        ("Persisted phases", names.Phase),
        ("Reset reasons", names.ResetReason),
        ("Chips", names.Chip),
        ("Command verbs", names.CommandVerb),
        ("Event kinds", names.EventKind),
    ],
)
def test_spec_and_python_name_the_same_numbers(beginning: str, enum: type[names.WireEnum]) -> None:
    assert spec_list(beginning) == labels(enum)


def test_spec_c_and_python_name_the_same_refusal_codes() -> None:
    python = labels(names.RefusalCode, skip_zero=True)
    assert spec_list("Refusal codes") == python
    assert {name.lower(): int(number) for name, number in re.findall(r"X\((\w+), (\d+)\)", HEADER)} == python


@pytest.mark.parametrize(
    ("enum_name", "prefix", "enum"),
    [
        ("fc_state", "FC_ST_", names.UpdateState),
        ("fc_phase", "FC_PH_", names.Phase),
        ("fc_reset", "FC_RST_", names.ResetReason),
    ],
)
def test_c_counts_states_in_the_same_order(enum_name: str, prefix: str, enum: type[names.WireEnum]) -> None:
    match = re.search(rf"enum {enum_name} \{{([^}}]*)\}}", HEADER)
    assert match is not None
    assert [name.lower() for name in re.findall(rf"{prefix}(\w+)", match[1])] == list(labels(enum))


def test_the_vector_file_lists_every_enumeration() -> None:
    content = json.loads((Path(generate.__file__).parent / "codes.json").read_text())
    enums = {
        name
        for name, value in vars(names).items()
        if isinstance(value, type) and issubclass(value, names.WireEnum)
    }
    tables = [value for value in content.values() if isinstance(value, dict)]
    assert len(tables) == len(enums - {"WireEnum"})
    assert content["refusal"] == labels(names.RefusalCode)
