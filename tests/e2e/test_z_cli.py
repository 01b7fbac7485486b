"""From a file to a confirmed model with the `tinyfleet` command alone, as a new user would."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.cli import connection, exits
from fleet.demo import plans
from fleet.stack.paths import PROJECT_ROOT
from tests.e2e.conftest import Fleet, issue_token

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]
FILE = str(PROJECT_ROOT / "deploy" / "models" / "activity-v2.tflite")
Run = Callable[..., str]


@pytest.fixture
def run(fleet: Fleet, tmp_path: Path) -> Run:
    """Run `tinyfleet` as a person does; its output. person: whose token; status: how it must end."""
    logins = {name: issue_token(fleet.info, name) for name in ("admin", "dana")}

    def call(*words: str, person: str = "admin", status: int = exits.OK) -> str:
        env = {**os.environ, connection.URL: fleet.info.console_url, connection.TOKEN: logins[person],
               "XDG_CONFIG_HOME": str(tmp_path)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "fleet.cli", *words],
            cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout + (done.stderr if status else "")

    return call


def test_a_model_goes_from_a_file_to_devices_by_the_command_alone(run: Run, tmp_path: Path) -> None:
    assert "3 CONV_2D" in run("models", "inspect", FILE)
    assert "command-line" in run("models", "create", "command-line") + run("models", "list")
    assert "fits" in run("models", "upload", "command-line", "1.0.0", FILE)
    assert "staged" in run("models", "release", "command-line", "1.0.0")
    devices = [json.loads(line)["id"] for line in run("--format", "json", "devices", "list").splitlines()][:2]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plans.everyone()))
    draft = ["by-hand", "command-line", "1.0.0", "--plan", str(plan)]
    chosen = [word for device in devices for word in ("--device", device)]
    made = json.loads(run("--format", "json", "rollouts", "create", *draft, *chosen))
    run("rollouts", "submit", made["id"])
    seen = _settled(run, made["id"])
    if seen["state"] == "awaiting_approval":
        digest = seen["approval"]["submission"]["plan_digest"]
        said = run("rollouts", "approve", made["id"], "--plan-digest", digest, status=exits.REFUSED)
        assert "approver_is_author" in said
        run("rollouts", "approve", made["id"], "--plan-digest", digest, person="dana")
    run("rollouts", "start", made["id"], "--reason", "tried by hand")
    assert "Completed" in run("rollouts", "watch", made["id"], "--every", "1", "--timeout", "200")
    assert run("rollouts", "jobs", made["id"]).count("confirmed") == len(devices)
    assert "command-line 1.0.0" in run("devices", "show", devices[0])
    assert "accuracy" in run("telemetry", "metrics")


def _settled(run: Run, rollout: str) -> dict[str, object]:
    """The rollout when preflight has ended."""
    while True:
        seen: dict[str, object] = json.loads(run("--format", "json", "rollouts", "show", rollout))
        if seen["state"] not in ("preflight", "draft"):
            return seen
