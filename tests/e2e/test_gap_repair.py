"""A broker that forgets costs nothing as long as devices hold the bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.stack.paths import PROJECT_ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(400)]


def test_what_a_forgetful_broker_acknowledged_is_asked_for_and_repaired(tmp_path: Path) -> None:
    out = tmp_path / "outcome.json"
    command = [sys.executable, "-m", "tests.e2e.forgetting", "--json", str(out)]
    env = {k: v for k, v in os.environ.items() if k != "FLEET_RUN_DIR"}
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=380, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(out.read_text())
    assert seen["records"]["repaired"] > 0
    assert seen["raw"] == seen["received"], "nothing was counted twice"
    assert seen["raw"] + seen["lost"] == seen["sent"] == seen["witnessed"], "nothing is missing unexplained"
