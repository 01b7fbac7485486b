"""Recorded wear through the shipped pipeline and the real TFLM: the same answers as before, faults seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_firmware.host.engine import WheelEngine, dequantise, quantise
from device_firmware.host.recordings import load_subject
from device_firmware.host.sensor import Sensor
from fleet.mqtt.codec.names import Action, ConfigKey
from fleet.mqtt.codec.sketch import Sketch
from ota.desired import DesiredEntry
from ota.hints import Hints
from tests.firmware import virtual
from tests.firmware.artifacts import CAPACITY, ident
from tests.firmware.rig import Rig
from tests.models.watch import watch_dir

Windows = np.ndarray[Any, Any]
V1 = virtual.model_bytes("activity-v1")


@pytest.fixture(scope="module")
def worn() -> tuple[Windows, Windows]:
    """Windows and labels of a person that no model was trained on, every third window."""
    recording = load_subject(watch_dir(), 6)
    return recording.x[::3], recording.y[::3]


def wear(folder: Path, **hints: Any) -> tuple[Rig, WheelEngine]:
    """A device that runs activity 1 on the real runtime."""
    engine = WheelEngine(operators=virtual.OPERATORS, arena_bytes=200_000)
    identity = ident(slot_capacity=(CAPACITY,), operators=virtual.OPERATORS, arena_bytes=200_000)
    folder.mkdir(exist_ok=True)
    rig = Rig(folder, engine=engine, identity=identity)  # type: ignore[arg-type]
    rig.start()
    rig.give_trust()
    item = virtual.artifact(V1, 1, hints=Hints(head=1, classes=7, channels=6, **hints))
    rig.stage(item)
    config = {ConfigKey.WINDOW_S: 3600, ConfigKey.SKETCH_S: 60}
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config=config)
    rig.confirm()
    rig.advance(70, step_ms=1000)  # the sketch of the probation is out
    return rig, engine


def test_every_answer_is_the_one_that_python_got(tmp_path: Path, worn: tuple[Windows, Windows]) -> None:
    """The demo's models answered windows quantised in Python before; now C quantises."""
    rig, engine = wear(tmp_path, window=100, hop=50)
    rig.core.open_pipeline()
    model = rig.core.running(0)
    assert model is not None
    agree = 0
    for window, label in zip(*worn, strict=True):
        rig.core.gap()
        rig.core.feed(window)
        outcome = rig.core.infer(label=int(label))
        assert outcome is not None
        outputs, _ = engine.invoke(0, [quantise(window, model.inputs[0])])
        wanted = dequantise(outputs[0], model.outputs[0]) * 10_000
        np.testing.assert_allclose(outcome.scores, wanted, atol=0.51)
        assert int(np.argmax(outcome.scores)) == int(wanted.argmax())
        agree += int(np.argmax(outcome.scores)) == int(label)
    assert agree > len(worn[0]) / 2
    rig.advance(70, step_ms=1000)
    sketch = [one for batch in rig.batches() for one in batch.sketches][-1]
    assert sketch.labels == ((1, len(worn[0]), agree),), "and the device counted the same"


def replay(rig: Rig, windows: Windows, labels: Windows) -> tuple[Sketch, list[int]]:
    """Wear these windows; the sketch of it and the anomaly scores."""
    before = {one.seq for batch in rig.batches() for one in batch.sketches}
    scores = []
    for window, label in zip(windows, labels, strict=True):
        rig.core.gap()
        rig.core.feed(window)
        outcome = rig.core.infer(label=int(label))
        assert outcome is not None
        assert outcome.anomaly is not None
        scores.append(outcome.anomaly)
    rig.advance(70, step_ms=1000)
    found = [one for batch in rig.batches() for one in batch.sketches if one.seq not in before]
    return found[-1], scores


def moments(windows: Windows) -> Windows:
    """Mean and mean deviation of each channel, as the device computes them."""
    mean = windows.mean(axis=1)
    spread = np.abs(windows - mean[:, None, :]).mean(axis=1)
    return np.stack([mean, spread], axis=2).reshape(len(windows), -1)


def confidence(sketch: Sketch) -> float:
    """Mean of the confidence histogram."""
    return float(np.dot(sketch.conf_hist, np.arange(10) + 0.5) / sketch.n)


@pytest.mark.parametrize(("axis", "offset"), [(1, -1.5), (3, 3.0)])
def test_an_offset_on_one_axis_shows_in_moments_and_anomaly_while_confidence_rises(
    axis: int, offset: float, tmp_path: Path, worn: tuple[Windows, Windows]
) -> None:
    """In standard deviations: most answers turn wrong, and the model is surer of them than before."""
    clean = moments(np.concatenate([load_subject(watch_dir(), s).x for s in range(1, 6)]))
    table = np.stack([clean.mean(axis=0), 1 / clean.std(axis=0)], axis=1).astype("<f4")
    distance = (((clean - table[:, 0]) * table[:, 1]) ** 2).mean(axis=1)
    limit = int(np.quantile(distance, 0.99) * 1000)
    deciles = tuple(int(value * 1000) for value in np.quantile(distance, np.arange(1, 10) / 10))
    hints = {"anomaly": (2, limit, 1), "distance": table.tobytes(), "deciles": deciles}
    rig, _ = wear(tmp_path, window=100, **hints)
    rig.core.open_pipeline()
    windows, labels = worn
    fault = np.zeros(6, np.float32)
    fault[axis] = offset
    healthy, before = replay(rig, windows, labels)
    faulty, after = replay(rig, windows + fault, labels)
    (_, n, right), (_, _, wrong) = healthy.labels[0], faulty.labels[0]
    assert wrong / n < right / n - 0.5, "the fault does harm"
    assert confidence(faulty) > confidence(healthy), "and confidence says the opposite"
    assert healthy.inputs is not None
    assert faulty.inputs is not None
    moved = [
        (new.mean_q8 - old.mean_q8) / 256 / 16
        for old, new in zip(healthy.inputs.channels, faulty.inputs.channels, strict=True)
    ]
    assert moved[axis] == pytest.approx(offset, rel=0.1), "in steps of 1/16"
    assert np.abs(np.delete(moved, axis)).max() < 0.01
    assert np.median(after) > 1.5 * np.median(before)
    assert sum(faulty.embed_hist[8:]) > sum(healthy.embed_hist[8:]) + n // 4, "the last clean fifth"


def endless(windows: Windows, labels: Windows) -> Iterator[tuple[Windows, int]]:
    """As a virtual device gets them."""
    while True:
        for window, label in zip(windows, labels, strict=True):
            yield window, int(label)


def test_a_virtual_devices_sensor_feeds_the_pipeline(tmp_path: Path, worn: tuple[Windows, Windows]) -> None:
    rig, engine = wear(tmp_path)
    model = rig.core.running(0)
    assert model is not None
    sensor = Sensor(endless(*worn), engine)
    for _ in range(20):
        sensor.infer(rig.core, model)
    assert rig.core.has_pipeline()
    rig.advance(70, step_ms=1000)
    sketch = [one for batch in rig.batches() for one in batch.sketches][-1]
    assert sketch.inputs is not None, "samples came through the pipeline"
    assert sketch.inputs.elements == 20 * 100
    assert sketch.labels[0][1] == 20


def test_a_model_of_another_sensor_is_fed_around_the_pipeline(
    tmp_path: Path, worn: tuple[Windows, Windows]
) -> None:
    rig, engine = wear(tmp_path)
    model = rig.core.running(0)
    assert model is not None
    other = (window[:49, :4] for window, _ in endless(*worn))
    sensor = Sensor(((window, 0) for window in other), engine)
    sensor.infer(rig.core, model)
    rig.advance(70, step_ms=1000)
    sketch = [one for batch in rig.batches() for one in batch.sketches][-1]
    assert (sketch.inputs, sketch.labels) == (None, ())
