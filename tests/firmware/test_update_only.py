"""A core built without telemetry (FC_TELEMETRY 0) updates, reports and survives like the whole one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from device_firmware.host.build import CORE_DIR, STRICT, compiler, includes
from tests.firmware.cutting import build_cuts, run_cuts

UPDATE_ONLY = ("-DFC_TELEMETRY=0",)


@pytest.mark.timeout(600)
def test_a_core_without_telemetry_survives_the_same_power_cuts(tmp_path: Path) -> None:
    """All stories of the power cuts from one fill of the log, under ASan and UBSan."""
    found = run_cuts(build_cuts(tmp_path, sanitize=True, defines=UPDATE_ONLY), "single", fills=1)
    print(found.table)
    assert found.singles > 250


def test_nothing_of_telemetry_is_left_in_such_a_core(tmp_path: Path) -> None:
    """Neither its functions in an object nor its memory in a slot's state."""
    names = {}
    for defines in ((), UPDATE_ONLY):
        target = tmp_path / f"core{len(defines)}.o"
        sources = [CORE_DIR / "src" / name for name in ("telemetry.c", "window.c")]
        flags = [*STRICT, "-O1", *includes(), *defines]
        for source in sources:
            subprocess.run([compiler(), *flags, "-c", source, "-o", target], check=True)
            listed = subprocess.run(["nm", "-g", "--defined-only", target], capture_output=True, check=True)
            names[source.name, len(defines)] = set(listed.stdout.decode().split()[2::3])
    assert {"fc_tele_send", "fc_tele_cut", "fc_tele_step"} <= names["telemetry.c", 0]
    assert names["telemetry.c", 1] == set()
    assert names["window.c", 0] - names["window.c", 1] == {"fc_window_close"}
    assert {"fc_sample_put", "fc_result_put"} <= names["window.c", 1]
