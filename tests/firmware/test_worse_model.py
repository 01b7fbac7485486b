"""The effect of a worse model: it bites only while a newer model runs, and as much as it says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_firmware.host import scenario
from device_firmware.host.faults import Fault
from device_firmware.host.suffering import Burdened, Suffering
from tests.firmware.artifacts import artifact
from tests.firmware.rig import Rig

EFFECT = {"kind": "effect", "above_seq": 1, "wrong": 0.4, "offset": 0.5, "slow_us": 3_000}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.start()
    made.give_trust()
    made.install(artifact(1))
    return made


def suffering(rig: Rig, **changes: Any) -> Suffering:
    """A device that suffers the effect; its radio is not asked here."""
    made = Suffering(rig.core, None, seed=7)  # type: ignore[arg-type]
    made.take(Fault.parse({**EFFECT, **changes}), time.monotonic())
    return made


def test_the_model_before_it_is_left_alone(rig: Rig) -> None:
    device = suffering(rig)
    window = np.ones((4, 2), np.float32)
    assert [device.labelled(label, 3) for label in (0, 1, 2, -1)] == [0, 1, 2, -1]
    assert device.sensed(window) is window
    assert device.slower_us() == 0
    assert not device.acted


def test_a_newer_model_is_as_much_worse_as_it_says(rig: Rig) -> None:
    device = suffering(rig)
    rig.install(artifact(2), attempt=2)
    labels = [device.labelled(1, 3) for _ in range(2_000)]
    assert 0.36 < sum(label != 1 for label in labels) / len(labels) < 0.44
    assert set(labels) == {0, 1, 2}
    assert device.labelled(-1, 3) == -1
    assert device.labelled(0, 1) == 0, "there is no other class"
    np.testing.assert_array_equal(device.sensed(np.ones((2, 2), np.float32)), np.full((2, 2), 1.5))
    assert device.slower_us() == 3_000
    assert device.acted["effect"] == sum(label != 1 for label in labels) + 2


def test_a_model_that_is_not_above_the_named_one_is_left_alone(rig: Rig) -> None:
    device = suffering(rig, above_seq=2)
    rig.install(artifact(2), attempt=2)
    assert device.slower_us() == 0


class Quick:
    """An engine that takes 40 µs."""

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        return [inputs[slot]], 40


def test_longer_inferences_are_slept_and_counted() -> None:
    burden = [0]
    engine = Burdened(Quick(), lambda: burden[0])
    assert engine.invoke(0, [b"x"]) == ([b"x"], 40)
    burden[0] = 20_000
    began = time.monotonic()
    assert engine.invoke(0, [b"x"]) == ([b"x"], 20_040)
    assert time.monotonic() - began >= 0.02


def test_a_scenario_file_speaks_of_it() -> None:
    worse = scenario.read(scenario.SCENARIOS / "rehearsal-worse.toml")
    steps = worse.steps([f"d-{i}" for i in range(6)])
    assert len(steps) == 6
    assert {step.fault.kind for step in steps} == {"effect"}
    assert steps[0].fault["wrong"] == 0.5
    with pytest.raises(scenario.ScenarioError):
        scenario.parse('name="x"\ndevices=1\n[[fault]]\nkind="worse_model"\nshare=1\nwrong=1.5\n')
