"""The short form of `python -m tests.e2e.killing`: one rollout, everything but the database killed once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.stack.paths import PROJECT_ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(600)]
DEVICES = 40


def test_worker_beat_gateway_redis_and_a_broker_that_forgets_may_all_die_in_one_rollout(
    tmp_path: Path,
) -> None:
    out = tmp_path / "runs.json"
    command = [sys.executable, "-m", "tests.e2e.killing", "--devices", str(DEVICES), "--runs", "1"]
    command += ["--seed", "3", "--json", str(out)]
    env = {k: v for k, v in os.environ.items() if k != "FLEET_RUN_DIR"}
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    calm, run = json.loads(out.read_text())
    assert calm["killed"] == {}
    assert run["windows"] > 0
    assert set(run["killed"]) == {"worker", "beat", "gateway", "mosquitto", "redis"}
    assert (run["state"], run["confirmed"], run["wrong"]) == ("completed", DEVICES, [])
