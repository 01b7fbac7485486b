"""The bad models are bad in the way they claim, in the real TFLM, each in a process of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.models import make_models
from tests.models.make_models import ACTIVITY, MODELS, WINDOW, WX, Outcome
from tests.models.watch import ROOT, watch_dir

RUNNER = ROOT / "tests" / "models" / "run_once.py"
REFUSED = 3
HANG_S = 4.0


def run(
    model: bytes, folder: Path, x: npt.NDArray[np.float32] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a model in a fresh process, on windows `x` or on zeros."""
    (folder / "model.tflite").write_bytes(model)
    command = [sys.executable, str(RUNNER), str(folder / "model.tflite")]
    if x is not None:
        np.savez(folder / "x.npz", x=x)
        command += ["--inputs", str(folder / "x.npz")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def answers(model: bytes, folder: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Scores of a model that must run, float64 (n, 7), in units of its own output."""
    done = run(model, folder, x)
    assert done.returncode == 0, done.stderr[-400:]
    return np.array(json.loads(done.stdout)["rows"], dtype=np.float64)


@pytest.fixture(scope="module")
def field() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The evaluation set and every fifth window of person 6, with labels."""
    with np.load(watch_dir() / "activity-eval.npz") as held, np.load(watch_dir() / "subject-06.npz") as sixth:
        return np.concatenate([held["x"], sixth["x"][::5]]), np.concatenate([held["y"], sixth["y"][::5]])


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].outcome is not Outcome.HANGS])
def test_tflm_does_with_each_model_what_its_entry_says(name: str, tmp_path: Path) -> None:
    done = run(MODELS[name].make(), tmp_path)
    seen = {0: Outcome.RUNS, REFUSED: Outcome.REFUSED}.get(done.returncode, Outcome.DIES)
    assert seen is MODELS[name].outcome, done.stderr[-400:]
    if seen is Outcome.DIES:
        assert -done.returncode in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


def test_the_hanging_model_is_still_busy_when_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "hang.tflite"
    path.write_bytes(make_models.hang())
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, str(RUNNER), str(path)], capture_output=True, timeout=HANG_S, check=False
        )


def test_the_same_loop_with_an_end_answers(tmp_path: Path) -> None:
    zeros = np.zeros((1, 100, 6), np.float32)
    ended = answers(make_models.loop(turns=10, step=1), tmp_path, zeros)
    assert (ended == answers(ACTIVITY.read_bytes(), tmp_path, zeros)).all()


@pytest.mark.parametrize("name", list(MODELS))
def test_a_model_is_written_the_same_every_time(name: str) -> None:
    assert MODELS[name].make() == MODELS[name].make()


def test_the_catalogue_is_written_to_a_folder(tmp_path: Path) -> None:
    assert make_models.main(["--to", str(tmp_path / "new"), "--only", "op-missing", "truncated"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "op-missing.tflite",
        "truncated.tflite",
    ]


@pytest.mark.parametrize("name", ["op-missing", "arena-hungry", "crash-in-use"])
def test_what_these_models_add_does_not_change_an_answer(
    name: str, tmp_path: Path, field: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    x, _ = field
    assert (answers(MODELS[name].make(), tmp_path, x) == answers(ACTIVITY.read_bytes(), tmp_path, x)).all()


def test_the_too_large_model_exceeds_a_slot_and_is_as_good(
    tmp_path: Path, field: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    x, _ = field
    data = make_models.too_large()
    assert len(data) > 385_024  # the larger demo slot
    best = answers(ACTIVITY.read_bytes(), tmp_path, x)
    ahead = np.sort(best, axis=1)[:, -1] - np.sort(best, axis=1)[:, -2] > 10  # rounding may decide near ties
    assert ahead.mean() > 0.8
    same = answers(data, tmp_path, x).argmax(axis=1) == best.argmax(axis=1)
    assert same[ahead].all()


def test_a_small_arena_is_too_small_for_the_hungry_model(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(make_models.arena_hungry())
    command = [sys.executable, str(RUNNER), str(tmp_path / "model.tflite"), "--arena", str(256 * 1024)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == REFUSED


def test_silent_nonsense_is_far_worse_than_the_same_weights_in_float(
    tmp_path: Path, field: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    x, y = field
    right = float((answers(make_models.float_twin(), tmp_path, x).argmax(axis=1) == y).mean())
    assert right > 0.75
    for bad in (make_models.weight_only, make_models.variables_unset, make_models.wrong_io_scale):
        accuracy = float((answers(bad(), tmp_path, x).argmax(axis=1) == y).mean())
        assert accuracy < right - 0.2, bad.__name__


def test_the_constant_model_answers_everything_alike(
    tmp_path: Path, field: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    rows = answers(make_models.constant_output(), tmp_path, field[0][:20])
    assert (rows == rows[0]).all()


@pytest.mark.parametrize("samples", [111, 112])
def test_the_model_that_crashes_in_use_dies_exactly_from_its_limit_on(samples: int, tmp_path: Path) -> None:
    x = np.zeros((1, WINDOW, 6), np.float32)
    x[0, 50, WX] = samples / 16
    done = run(make_models.crash_in_use(limit=112), tmp_path, x)
    assert done.returncode == (0 if samples < 112 else -signal.SIGSEGV)
