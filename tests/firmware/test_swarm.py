"""The swarm's short form: 200 true cores, a real broker, lost chunks, power cuts, a model that fails on some.

The long form is `python -m tests.bench.swarm` (5,000 cores); both run the same code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_firmware.host import build
from tests.bench.swarm import fleet_file, people
from tests.models.watch import ROOT

DEVICES = 200


def test_two_hundred_cores_end_as_scripted_under_loss_and_cuts(tmp_path: Path) -> None:
    """ASan and UBSan watch the cores; the reports are read back from the broker and their MACs checked."""
    out = tmp_path / "swarm.json"
    command = [sys.executable, "-m", "tests.bench.swarm", "--sanitize", "--json", str(out)]
    command += ["--devices", str(DEVICES), "--kib", "120", "--loss", "0.003", "--cut-per-hour", "40"]
    command += ["--bad-golden", "0.05", "--crash", "0.05", "--deadline", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(out.read_text())
    update, end = result["goals"][1], result["end"]
    assert result["verdict"] == "ok"
    assert sum(update["scripted"].values()) == sum(result["reported"].values()) == DEVICES
    assert min(update["scripted"].values()) > 0, "the seed plays every outcome"
    assert end["panics"] >= 2 * update["scripted"]["crash"], "a crashing model is tried twice, not more often"
    assert end["panics"] <= 2 * update["scripted"]["crash"] + end["cuts"]
    assert end["cuts_in_flash"] > 0
    assert end["chunks_lost"] > 0
    assert end["protocol_errors"] == end["connections_lost"] == 0
    assert sum(result["backend"]["publishes"][kind] for kind in ("model", "second model")) < 100, (
        "one publish a chunk, however many devices"
    )
    for row in result["states"]:
        assert sum(n for state, n in row.items() if state not in ("s", "settled")) == DEVICES, row


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "1883"], "--file and --port are needed"),
        (["--file", "x", "--port", "70000"], "--port cannot be 70000"),
        (["--file", "x", "--port", "1", "--loss", "nan"], "--loss cannot be nan"),
        (["--file", "x", "--port", "1", "--devices", "0"], "--devices cannot be 0"),
        (["--file", "x", "--port", "1", "--goal", "xyz"], "--goal cannot be xyz"),
        (["--file", "x", "--port", "1", "--bad-golden", "0.6", "--crash", "0.6"], "at most 1"),
        (["--file", "/nonexistent", "--port", "1"], "cannot be opened"),
    ],
)
def test_bad_use_of_the_program_is_said_in_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [build.build_swarm(), *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("root 00", ":1: not understood"),
        ("class 00112233445566778899aabbccddeef", ":1: not understood"),
        ("slot 4097", ":1: not understood"),
        ("device UPPER secret " + "00" * 32, ":1: not understood"),
        ("device sw-1 secret 00", ":1: not understood"),
        ("colour blue", ":1: not understood"),
        ("x " * 700, ":1: not understood"),
        ("", "names 0 devices, 1 are asked for"),
    ],
)
def test_a_file_it_cannot_use_is_named_with_its_line(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet"
    path.write_text(line + "\n")
    command = [build.build_swarm(), "--file", path, "--port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_without_a_broker_the_swarm_gives_up_at_its_deadline(tmp_path: Path) -> None:
    path = fleet_file(tmp_path / "fleet", people(3, 1))
    command = [build.build_swarm(), "--file", path, "--port", "1", "--devices", "3", "--goal", "0" * 16]
    done = subprocess.run(
        [*command, "--duration", "1"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 3
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["how"] == "duration"
    assert lines[-1]["connects"] == 0
    assert lines[-1]["connect_failures"] >= 3
