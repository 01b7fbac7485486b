"""`manage.py simulate` against the running installation: it enrols its own devices, the fleet is left be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.stack.paths import PROJECT_ROOT
from tests.e2e.conftest import Fleet
from tests.models.watch import watch_dir

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(600)]
SCENARIO = """
name = "shed"
devices = 3
class = "host-b"
duration_s = 12

[[fault]]
kind = "power_cut"
names = ["shed-0001"]
start_s = 2

[[fault]]
kind = "flapping_wifi"
names = ["shed-0002"]
up_s = 2
down_s = 2
"""


def simulate(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""
    command = [sys.executable, str(PROJECT_ROOT / "manage.py"), "simulate", *arguments]
    env = {**os.environ, **fleet.info.env}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)


def test_a_scenario_enrols_devices_plays_faults_and_can_be_run_again(fleet: Fleet, tmp_path: Path) -> None:
    path, out = tmp_path / "shed.toml", tmp_path / "summary.json"
    path.write_text(SCENARIO)
    arguments = [str(path), "--data", str(watch_dir()), "--dir", str(tmp_path / "shed")]
    done = simulate(fleet, *arguments, "--summary", str(out))
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    summary = json.loads(out.read_text())
    cut, wifi = summary["faults"]
    assert (cut["kind"], cut["sent"], cut["restarts"]) == ("power_cut", 1, {"power": 1})
    assert wifi["acted"]["wifi"] >= 2
    assert summary["without_faults"]["restarts"] == {}
    listed = {device["id"]: device for device in fleet.api.every("/devices")}
    assert {f"shed-000{n}" for n in range(3)} <= set(listed)
    assert not (tmp_path / "shed" / "tickets.jsonl").exists(), "one-time tokens are not left lying about"
    again = simulate(fleet, *arguments, "--duration", "2", "--summary", str(out))
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads(out.read_text())["all"]["devices"] == 3
    elsewhere = simulate(fleet, str(path), "--data", str(watch_dir()), "--dir", str(tmp_path / "other"))
    assert elsewhere.returncode == 1
    assert "device_exists" in elsewhere.stderr
    assert "--dir" in elsewhere.stderr
