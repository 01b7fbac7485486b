"""From a file to confirmed devices by `tinyfleet` alone and by curl alone, as the guide tells it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.cli import connection
from fleet.demo import plans
from fleet.stack.paths import PROJECT_ROOT
from tests.e2e.conftest import Fleet, issue_token

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]
GUIDE = PROJECT_ROOT / "deploy" / "guides" / "command-line.md"
FILES = {"With tinyfleet": "activity-v2.tflite", "With curl": "activity-v1.tflite"}


def block(heading: str) -> str:
    """The guide's commands under a heading."""
    found = re.search(rf"## {heading}\n```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize(("heading", "model"), [("With tinyfleet", "by-command"), ("With curl", "by-curl")])
def test_the_guide_leads_from_a_file_to_confirmed_devices(
    heading: str, model: str, fleet: Fleet, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plans.everyone()))
    # another file than its neighbour's: the same bytes twice are a duplicate
    file = tmp_path / FILES[heading]
    file.write_bytes((PROJECT_ROOT / "deploy" / "models" / file.name).read_bytes() + model.encode())
    devices = [row["id"] for row in fleet.api.every("/devices")][:2]
    token = issue_token(fleet.info)
    env = os.environ | {
        "URL": fleet.info.console_url, "TOKEN": token, "FILE": str(file), "PLAN": str(plan),
        "HELDOUT": str(fleet.setting.data_dir / "activity-eval.npz"),
        "DEVICES": f"id=in=({','.join(devices)})",
        connection.URL: fleet.info.console_url, connection.TOKEN: token, "XDG_CONFIG_HOME": str(tmp_path),
    }  # fmt: skip
    script = f'set -euo pipefail\ntinyfleet() {{ "{sys.executable}" -m fleet.cli "$@"; }}\n{block(heading)}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=PROJECT_ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for device in devices:
        (slot,) = fleet.api.get(f"/devices/{device}")["slots"]
        assert (slot["run"]["model"], slot["run"]["version"]) == (model, "1.0.0")
