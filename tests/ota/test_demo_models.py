"""The committed demo models are the ones activity.json describes, and TFLM gives the answers it records."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_firmware.host.recordings import CLASS_NAMES, FIELD_SUBJECTS
from tests.models.watch import ROOT, watch_dir

MODELS = ROOT / "deploy" / "models"
RECORD: dict[str, Any] = json.loads((MODELS / "activity.json").read_text())
NAMES = ["activity-v1", "activity-v2", "activity-v3", "activity-large"]
SEGMENT_BYTES = 8 * 4096


def entry(name: str) -> dict[str, Any]:
    """One model's entry in activity.json."""
    found: dict[str, Any] = RECORD["models"][name]
    return found


def measured(name: str, sets: list[str]) -> dict[str, Any]:
    """What measure.py prints for a committed model in a process of its own."""
    files = [str(watch_dir() / f"{one}.npz") for one in sets]
    command = [sys.executable, str(MODELS / "measure.py"), str(MODELS / f"{name}.tflite"), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_every_committed_model_is_described_and_is_that_file() -> None:
    assert sorted(RECORD["models"]) == sorted(NAMES)
    assert sorted(path.stem for path in MODELS.glob("*.tflite")) == sorted(NAMES)
    for name in NAMES:
        data = (MODELS / entry(name)["file"]).read_bytes()
        assert entry(name)["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry(name)["bytes"] == len(data)
    assert tuple(RECORD["classes"]) == CLASS_NAMES


@pytest.mark.parametrize("name", NAMES)
def test_tflm_gives_exactly_the_recorded_answers(name: str) -> None:
    sets = sorted(entry(name)["results"])
    report = measured(name, sets)
    for one in sets:
        assert report["results"][one] == entry(name)["results"][one], one
    for key in ("sha256", "bytes", "input", "output", "operators", "macs", "arena"):
        assert report[key] == entry(name)[key], key


def test_the_models_share_one_contract() -> None:
    for name in NAMES:
        assert entry(name)["input"] == {
            "dtype": "int8",
            "shape": [1, 100, 6],
            "scale": 0.0625,
            "zero_point": 0,
        }
        assert entry(name)["output"] == {
            "dtype": "int8",
            "shape": [1, 7],
            "scale": 1 / 256,
            "zero_point": -128,
        }
        assert set(entry(name)["operators"]) == set(entry("activity-v1")["operators"])


def test_the_story_holds_on_people_no_model_has_seen() -> None:
    def field(name: str) -> float:
        results = [entry(name)["results"][f"subject-{one:02d}"] for one in FIELD_SUBJECTS]
        accuracy: float = sum(one["correct"] for one in results) / sum(one["n"] for one in results)
        assert accuracy == pytest.approx(entry(name)["field_accuracy"], abs=5e-5)
        return accuracy

    assert 0.65 < field("activity-v1") < 0.80
    assert field("activity-v2") > field("activity-v1") + 0.08
    assert field("activity-v3") < 0.45
    assert field("activity-large") > 0.80


def test_the_bad_version_looks_good_to_its_own_evaluation() -> None:
    third = entry("activity-v3")
    assert third["evaluation_file"] == "activity-eval-rotated.npz"
    assert third["declared_accuracy"] == third["results"]["activity-eval-rotated"]["accuracy"] > 0.95
    assert third["results"]["activity-eval"]["accuracy"] < 0.45


def test_the_large_model_spans_several_segments_and_fits_a_slot() -> None:
    size = entry("activity-large")["bytes"]
    assert -(-size // SEGMENT_BYTES) >= 5
    assert size <= 385_024


def test_no_machine_path_is_in_the_committed_files() -> None:
    for path in sorted(MODELS.iterdir()):
        if path.is_file():
            data = path.read_bytes()
            assert not [
                word for word in (b"/tmp/", b"/home/", b"/root/", str(Path.home()).encode()) if word in data
            ]


def test_the_demos_gate_decides_as_the_story_tells() -> None:
    command = [sys.executable, "-m", "tests.bench.demo_gate", "--json", "--repeats", "1000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    demo = {(row["new"], row["old"]): row for row in json.loads(done.stdout)[:3]}
    assert demo["activity-v2", "activity-v1"]["passed"] >= 0.999
    assert demo["activity-v3", "activity-v2"]["halted"] == 1.0
    assert demo["activity-v1", "activity-v1"]["halted"] <= 0.025
