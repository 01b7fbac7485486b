"""The recordings that feed virtual devices: fetched whole, read safely, split by person, replayed."""

import codecs
import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_firmware.host import recordings
from device_firmware.host.recordings import (
    CLASS_NAMES,
    FIELD_SUBJECTS,
    SUBJECTS,
    TRAIN_SUBJECTS,
    Recording,
    RecordingsError,
    field_subject,
    load_subject,
    prepare,
    stream,
    training_rows,
    unpickle_dataset,
)
from tests.models.watch import ROOT, watch_dir

WINDOWS = {1: 561, 2: 540, 3: 305, 4: 295, 5: 490, 6: 478, 7: 524, 8: 482, 9: 483, 10: 519}
NPY_HEADER = b"\x93NUMPY".ljust(128)


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The pinned wheel, as `prepare` keeps it."""
    return watch_dir() / "seglearn-1.2.5-py3-none-any.whl"


@pytest.fixture(scope="module")
def sixth() -> Recording:
    """Person 6."""
    return load_subject(watch_dir(), 6)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file prepare writes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.npz")}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_person_has_every_exercise_with_both_arms(subject: int) -> None:
    one = load_subject(watch_dir(), subject)
    assert len(one.x) == WINDOWS[subject]
    assert len(np.unique(one.series)) == 2 * len(CLASS_NAMES)
    assert set(one.y) == set(range(len(CLASS_NAMES)))
    assert np.isfinite(one.x).all()


def test_windows_of_the_training_people_are_z_scored() -> None:
    # Every second window: they do not overlap, but a series' end may be left out, hence the tolerance.
    x = np.concatenate([load_subject(watch_dir(), one).x[::2] for one in TRAIN_SUBJECTS]).reshape(-1, 6)
    assert np.abs(x.mean(axis=0)).max() < 0.03
    assert np.abs(x.std(axis=0) - 1).max() < 0.05


def test_preparing_again_touches_nothing(wheel: Path, tmp_path: Path) -> None:
    prepare(tmp_path, wheel=wheel)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    prepare(tmp_path, wheel=tmp_path / "no-such-wheel")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "flipped", "index"])
def test_a_damaged_folder_is_mended_to_the_same_bytes(damage: str, wheel: Path, tmp_path: Path) -> None:
    prepare(tmp_path, wheel=wheel)
    whole = digests(tmp_path)
    assert whole == digests(watch_dir())
    victim = tmp_path / ("index.json" if damage == "index" else "subject-07.npz")
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    prepare(tmp_path, wheel=wheel)
    assert digests(tmp_path) == whole


def test_two_processes_may_prepare_at_once(wheel: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "device_firmware.host.recordings",
        "--to",
        str(tmp_path),
        "--wheel",
        str(wheel),
    ]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [one.communicate(timeout=60)[0] for one in running]
    assert [one.returncode for one in running] == [0, 0]
    assert "subject  6: 478 windows" in printed[0]
    assert digests(tmp_path) == digests(watch_dir())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_wheel_is_refused_by_its_digest(wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("seglearn/data/watch_dataset.npy", NPY_HEADER + pickle.dumps(1))
    (tmp_path / "cut.whl").write_bytes(wheel.read_bytes()[:1_000])
    for path, code in (
        (other, "data_digest"),
        (tmp_path / "cut.whl", "data_digest"),
        (tmp_path / "no", "data_missing"),
    ):
        with pytest.raises(RecordingsError) as caught:
            prepare(tmp_path / "out", wheel=path)
        assert caught.value.code == code
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_says_why_it_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recordings.main(["--to", str(tmp_path), "--wheel", str(tmp_path / "no.whl")]) == 1
    assert "data_missing" in capsys.readouterr().err


class Attack:
    """Pickles into a call of whatever it is given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_a_pickle_that_calls_something_is_refused_before_the_call(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    marker = trap / "marker"
    for attack in (
        Attack(os.system, f"touch {marker}"),
        Attack(eval, f"open({str(marker)!r}, 'w')"),
        Attack(np.save, str(marker), 1),
        Attack(codecs.encode, "x", "rot13"),
    ):
        with pytest.raises(RecordingsError) as caught:
            unpickle_dataset(NPY_HEADER + pickle.dumps(attack, protocol=2))
        assert caught.value.code == "data_refused"
    assert list(trap.iterdir()) == []


@pytest.mark.parametrize("payload", [b"", b"\x80\x02", b"garbage", pickle.dumps(1), pickle.dumps({"X": []})])
def test_a_pickle_of_something_else_is_refused(payload: bytes) -> None:
    with pytest.raises(RecordingsError) as caught:
        unpickle_dataset(NPY_HEADER + payload)
    assert caught.value.code in ("data_refused", "data_shape")


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingsError) as caught:
        load_subject(tmp_path, 6)
    assert caught.value.code == "data_missing"
    path, y = tmp_path / "subject-06.npz", np.zeros(3, np.int64)
    x = np.zeros((3, 100, 6), np.float32)
    for arrays in (
        {"x": x, "y": y},
        {"x": x[:, :50], "y": y, "series": y},
        {"x": x.astype(np.float64), "y": y, "series": y},
        {"x": x[:2], "y": y, "series": y},
        {"x": np.array([None, {}]), "y": y, "series": y},
    ):
        np.savez(path, **arrays)
        with pytest.raises(RecordingsError) as caught:
            load_subject(tmp_path, 6)
        assert caught.value.code == "data_shape"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(RecordingsError) as caught:
        load_subject(tmp_path, 6)
    assert caught.value.code == "data_shape"


def test_training_and_evaluation_rows_share_no_sample() -> None:
    for subject in TRAIN_SUBJECTS:
        one = load_subject(watch_dir(), subject)
        train, held_out = training_rows(one)
        for series in np.unique(one.series):
            last = max(row for row in train if one.series[row] == series)
            first = min(row for row in held_out if one.series[row] == series)
            assert first - last == 2  # a hop of half a window: two apart touch, one apart overlap
        assert set(one.y[held_out]) == set(range(len(CLASS_NAMES)))


def test_the_evaluation_set_is_balanced_small_and_held_out() -> None:
    path = watch_dir() / "activity-eval.npz"
    with np.load(path) as arrays, np.load(watch_dir() / "activity-eval-rotated.npz") as rotated:
        x, y = arrays["x"], arrays["y"]
        assert (rotated["x"] == x[:, :, recordings.ROTATED_AXES]).all()
        assert (rotated["y"] == y).all()
    assert (x.dtype, y.dtype, x.shape) == (np.float32, np.int64, (140, 100, 6))
    assert np.bincount(y).tolist() == [20] * len(CLASS_NAMES)
    assert path.stat().st_size < 150_000
    trained = np.concatenate(
        [one.x[training_rows(one)[0]] for one in (load_subject(watch_dir(), s) for s in TRAIN_SUBJECTS)]
    )
    nearest = min(float(np.abs(trained - one).max(axis=(1, 2)).min()) for one in x)
    assert nearest > 2 / 64  # rounding moves a sample by 1/128 at most, so none of them was trained on


def test_devices_take_the_unseen_people_in_turn() -> None:
    assert [field_subject(index) for index in range(7)] == [6, 7, 8, 9, 10, 6, 7]
    assert set(FIELD_SUBJECTS).isdisjoint(TRAIN_SUBJECTS)


def test_a_seed_fixes_the_stream_and_another_seed_changes_it(sixth: Recording) -> None:
    def labels(seed: int) -> list[int]:
        return [label for _, label in itertools.islice(stream(sixth, seed=seed), 1_000)]

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)


def test_a_stream_replays_its_own_share_with_true_labels(sixth: Recording) -> None:
    where = {one.tobytes(): row for row, one in enumerate(sixth.x)}
    seen = []
    for window, label in itertools.islice(stream(sixth, seed=3, share=0.5), 2 * len(sixth.x)):
        assert window.shape == (100, 6)
        assert window.dtype == np.float32
        row = where[window.tobytes()]
        assert sixth.y[row] == label
        seen.append(row)
    own = set(seen)
    assert 0.45 < len(own) / len(sixth.x) < 0.55
    assert {int(sixth.y[row]) for row in own} == set(range(len(CLASS_NAMES)))
    for series in np.unique(sixth.series):
        rows = sorted(row for row in own if sixth.series[row] == series)
        assert rows == list(range(rows[0], rows[-1] + 1))
    others = {where[w.tobytes()] for w, _ in itertools.islice(stream(sixth, seed=4, share=0.5), len(seen))}
    assert others != own


def test_a_short_stretch_of_a_stream_meets_every_exercise(sixth: Recording) -> None:
    for seed in range(20):
        assert len({label for _, label in itertools.islice(stream(sixth, seed=seed), 150)}) == len(
            CLASS_NAMES
        )


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"run": 0}])
def test_a_stream_refuses_impossible_shares(sixth: Recording, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        next(stream(sixth, seed=1, **wrong))
