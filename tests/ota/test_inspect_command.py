"""`manage.py inspect`: exit status and output, without database or broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from tests.ota import tflite_files as files

ROOT = Path(__file__).parents[2]
ACTIVITY = ROOT / "deploy/models/activity-v1.tflite"


def run(*arguments: object) -> tuple[int, str]:
    """Exit status and output of the command, run in this process without a database."""
    out = StringIO()
    try:
        call_command("inspect", *map(str, arguments), stdout=out)
    except SystemExit as stop:
        return int(stop.code or 0), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Write bytes into a file, return its path."""

    def write(data: bytes, name: str = "model.tflite") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_a_good_model_exits_0_and_is_described() -> None:
    status, text = run(ACTIVITY, "--class", "host-a", "--class", "host-b")
    assert status == 0
    assert text.startswith("activity-v1.tflite: unproven\n")
    for word in ("CONV_2D × 3", "int8 1 × 100 × 6", "evaluation_set", "host-a", "host-b", "simulated"):
        assert word in text


def test_json_carries_the_whole_report() -> None:
    status, text = run(ACTIVITY, "--json", "--class", "host-b")
    found = json.loads(text)
    assert (status, found["verdict"], found["missing"]) == (0, "unproven", ["evaluation_set"])
    assert found["inspection"]["macs"] == 201_824
    assert found["probe"]["arena_min_bytes"] > 0
    assert [(each["class"], each["verdict"]) for each in found["classes"]] == [("host-b", "unproven")]


def test_an_evaluation_set_makes_it_a_pass(written: Any, tmp_path: Path) -> None:
    x = np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "eval.npz", x=x, y=np.arange(4))
    model = written(files.classifier())
    status, text = run(model, "--eval", tmp_path / "eval.npz", "--declared", "1.0", "--class", "host-b")
    assert status == 0
    assert "model.tflite: pass" in text
    assert "100.0% (4 of 4 rows" in text
    np.savez(tmp_path / "eval.npz", x=x, y=[1, 2, 3, 0])
    status, text = run(model, "--eval", tmp_path / "eval.npz", "--declared", "1.0")
    assert status == 1
    assert "selftest_mismatch" in text


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_tflite"),
        (b"hello world, no model", "not_tflite"),
        (ACTIVITY.read_bytes()[:5000], "schema"),
        (files.classifier() + bytes(16 * 1024**2), "too_large"),
        (files.hybrid(), "hybrid"),
        (files.custom("SignalFramer"), "probe_crash"),
        (files.constant(), "selftest_mismatch"),
    ],
)
def test_a_bad_model_exits_1_with_its_code(written: Any, data: bytes, code: str) -> None:
    status, text = run(written(data), "--class", "host-a")
    assert status == 1
    assert "REFUSED" in text
    assert f"✗ {code}: " in text
    status, text = run(written(data), "--json")
    assert (status, json.loads(text)["reasons"][0]["code"]) == (1, code)


def test_a_model_too_large_for_a_named_class_exits_1() -> None:
    large = ROOT / "deploy/models/activity-large.tflite"
    status, text = run(large, "--class", "host-a", "--class", "host-b")
    assert status == 1
    assert "too_large" in text
    assert run(large, "--class", "host-a")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["/nonexistent.tflite"],
        [str(ROOT)],
        [str(ACTIVITY), "--class", "no-such-class"],
        [str(ACTIVITY), "--eval", "/nonexistent.npz"],
        [str(ACTIVITY), "--declared", "80"],
    ],
)
def test_unusable_arguments_exit_2(arguments: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2


def test_it_runs_without_database_broker_or_terminal_encoding(written: Any) -> None:
    """The real command line, with servers that are not there and an output that is ASCII only."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DJANGO")},
        "DATABASE_URL": "postgres://nobody:x@127.0.0.1:1/none",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "PYTHONIOENCODING": "ascii",
    }

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "inspect", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd="/",
            check=False,
        )

    good = command(ACTIVITY)
    assert (good.returncode, good.stderr) == (0, "")
    bad = command(written(files.custom("SignalFramer")))
    assert (bad.returncode, bad.stderr) == (1, "")
    assert "probe_crash" in bad.stdout
    unusable = command("--class", "host-a")
    assert unusable.returncode == 2
    assert "Traceback" not in unusable.stderr
