"""tflm_engine.cc against the official wheel: the same bytes out, on every model at hand.

Both run in child processes. The library that the engine is linked with here is another build of TFLM
(library.py); no figure of it is an ESP32's.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import cbor2
import numpy as np
import pytest

from fleet.mqtt.codec.classes import encode_operators, sorted_operators
from ota.operators import BUILTIN_CODES
from tests.firmware.engine import library
from tests.firmware.engine.bench import Bench, BenchDiedError
from tests.firmware.engine.convolution import without_dense_layers
from tests.firmware.engine.streaming import FRAME, streaming
from tests.models.make_models import MODELS, loop

ROOT = Path(__file__).resolve().parents[3]
DEMO = sorted((ROOT / "deploy" / "models").glob("*.tflite"))
WINDOW = 600
LOAD_FAILED, ARENA_TOO_SMALL, IO_CONTRACT, SCHEMA = -16, -8, -11, -10


def frames(size: int, n: int, *, seed: int = 1) -> list[bytes]:
    """n inputs of int8, each repeated once now and then."""
    random = np.random.default_rng(seed)
    made = [random.integers(-128, 128, size, dtype=np.int8).tobytes() for _ in range(n)]
    return [made[i - i % 3 // 2] for i in range(n)]


def weak(n: int) -> list[bytes]:
    """n windows without a strong movement."""
    random = np.random.default_rng(4)
    return [random.integers(-60, 61, WINDOW, dtype=np.int8).tobytes() for _ in range(n)]


def by_wheel(model: bytes, inputs: list[bytes], *, reset_before: int = -1, folder: Path) -> list[bytes]:
    """Outputs of the official wheel."""
    path = folder / "model.tflite"
    path.write_bytes(model)
    script = b"".join((b"R" if i == reset_before else b"") + b"I" + raw for i, raw in enumerate(inputs))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "wheel.py"), str(path)],
        input=script,
        capture_output=True,
        check=True,
        timeout=120,
    )
    each = len(done.stdout) // len(inputs)
    return [done.stdout[i * each : (i + 1) * each] for i in range(len(inputs))]


def by_engine(bench: Bench, slot: int, inputs: list[bytes], *, reset_before: int = -1) -> list[bytes]:
    """Outputs of our engine."""
    outputs = []
    for index, raw in enumerate(inputs):
        if index == reset_before:
            assert bench.reset(slot) == 0
        result, out = bench.invoke(slot, [raw])
        assert result == 0
        outputs.append(out[0])
    return outputs


@pytest.mark.parametrize("path", DEMO, ids=lambda path: path.stem)
def test_a_demo_model_gives_the_wheels_bytes(path: Path, bench_program: Path, tmp_path: Path) -> None:
    inputs = frames(WINDOW, 48)
    with Bench(bench_program) as bench:
        assert bench.check(path.read_bytes()) == 0
        assert bench.load(0, without_dense_layers(path.read_bytes()))[0] == 0
        got = by_engine(bench, 0, inputs)
    assert got == by_wheel(path.read_bytes(), inputs, folder=tmp_path)
    assert len(set(got)) >= 8  # the inputs are not all one class


MADE = ["op-missing", "arena-hungry", "crash-in-use"]


@pytest.mark.parametrize("name", MADE)
def test_a_made_model_gives_the_wheels_bytes(name: str, bench_program: Path, tmp_path: Path) -> None:
    model = MODELS[name].make()
    # crash-in-use dies of strong movement (tests/models): its inputs are weak ones
    inputs = frames(WINDOW, 12, seed=2) if name != "crash-in-use" else weak(12)
    with Bench(bench_program, arena_bytes=1 << 20) as bench:
        assert bench.load(0, without_dense_layers(model))[0] == 0
        assert by_engine(bench, 0, inputs) == by_wheel(model, inputs, folder=tmp_path)


def test_control_flow_gives_the_wheels_bytes(bench_program: Path, tmp_path: Path) -> None:
    model, inputs = loop(turns=5, step=1), frames(WINDOW, 6, seed=3)
    with Bench(bench_program) as bench:
        assert bench.load(0, without_dense_layers(model))[0] == 0
        assert by_engine(bench, 0, inputs) == by_wheel(model, inputs, folder=tmp_path)


def test_a_runtime_that_computes_something_else_is_seen_in_its_outputs(
    bench_program: Path, tmp_path: Path
) -> None:
    """The reason for golden vectors: this library loads and runs the model, and its scores are wrong."""
    model, inputs = DEMO[1].read_bytes(), frames(WINDOW, 4)
    with Bench(bench_program) as bench:
        assert bench.load(0, model)[0] == 0
        assert by_engine(bench, 0, inputs) != by_wheel(model, inputs, folder=tmp_path)


@pytest.mark.parametrize("names", [("ring",), ("ring", "older")], ids=["one variable", "two variables"])
def test_a_streaming_model_gives_the_wheels_bytes_across_a_reset(
    names: tuple[str, ...], bench_program: Path, tmp_path: Path
) -> None:
    model, inputs = streaming(names=names), frames(FRAME, 40)
    with Bench(bench_program) as bench:
        assert bench.load(0, model)[0] == 0
        got = by_engine(bench, 0, inputs, reset_before=25)
    assert got == by_wheel(model, inputs, reset_before=25, folder=tmp_path)
    assert got[:15] != got[25:]
    twice = [i for i in range(1, 40) if inputs[i] == inputs[i - 1]]
    assert any(got[i] != got[i - 1] for i in twice)  # state is what differs between equal inputs


def test_two_models_in_one_arena_do_not_disturb_each_other(bench_program: Path, tmp_path: Path) -> None:
    activity, stream = DEMO[0].read_bytes(), streaming()
    windows, ticks = frames(WINDOW, 20), frames(FRAME, 20)
    with Bench(bench_program) as bench:
        assert bench.load(0, without_dense_layers(activity))[0] == 0
        assert bench.load(1, stream)[0] == 0
        got = [
            (bench.invoke(0, [window])[1][0], bench.invoke(1, [tick])[1][0])
            for window, tick in zip(windows, ticks, strict=True)
        ]
    wanted = zip(
        by_wheel(activity, windows, folder=tmp_path), by_wheel(stream, ticks, folder=tmp_path), strict=True
    )
    assert got == list(wanted)


def least_arena(program: Path, models: list[bytes]) -> int:
    """The smallest arena, to 16 bytes, in which all these load together."""

    def fits(arena_bytes: int) -> bool:
        with Bench(program, arena_bytes=arena_bytes) as bench:
            return bench.is_open and all(bench.load(slot, m)[0] == 0 for slot, m in enumerate(models))

    bad, good = 4096, 262_144
    assert fits(good)
    while good - bad > 16:
        middle = (bad + good) // 2 & ~15
        bad, good = (bad, middle) if fits(middle) else (middle, good)
    return good


def test_models_share_the_arena_for_activations(bench_program: Path) -> None:
    large, small = DEMO[0].read_bytes(), DEMO[1].read_bytes()
    alone = [least_arena(bench_program, [model]) for model in (large, small)]
    together = least_arena(bench_program, [large, small])
    print(f"least arena: {alone[0]:,} and {alone[1]:,} B alone, {together:,} B together")
    assert max(alone) < together < sum(alone)


def test_the_arena_probe_names_the_smallest_arena_that_works(bench_program: Path) -> None:
    model = DEMO[0].read_bytes()
    with Bench(bench_program) as bench:
        assert bench.load(0, model)[0] == 0
        before = bench.invoke(0, [bytes(WINDOW)])
        result, least = bench.probe(0)
        assert result == 0
        assert bench.invoke(0, [bytes(WINDOW)]) == before  # and the model is loaded again
        assert bench.probe(3)[0] < 0
    with Bench(bench_program, arena_bytes=least) as bench:
        assert bench.load(0, model)[0] == 0
    with Bench(bench_program, arena_bytes=least - 16) as bench:
        assert bench.load(0, model)[0] == LOAD_FAILED


def test_a_model_that_does_not_fit_beside_another_leaves_that_one_running(bench_program: Path) -> None:
    large, stream = DEMO[0].read_bytes(), streaming()
    arena = least_arena(bench_program, [large])
    with Bench(bench_program, arena_bytes=arena) as bench:
        assert bench.load(1, stream)[0] == 0
        fresh = by_engine(bench, 1, frames(FRAME, 5))
        assert bench.load(0, large)[0] == ARENA_TOO_SMALL
        assert bench.invoke(0, [bytes(WINDOW)])[0] < 0
        assert bench.state_resets(1) > 0
        assert by_engine(bench, 1, frames(FRAME, 5)) == fresh


def test_a_change_of_one_slot_starts_the_others_state_over_and_counts_it(bench_program: Path) -> None:
    ticks = frames(FRAME, 6)
    with Bench(bench_program) as bench:
        assert bench.load(1, streaming())[0] == 0
        fresh = by_engine(bench, 1, ticks)
        assert by_engine(bench, 1, ticks) != fresh
        resets = bench.state_resets(1)
        assert bench.load(0, DEMO[1].read_bytes())[0] == 0
        assert bench.state_resets(1) == resets + 1
        assert by_engine(bench, 1, ticks) == fresh


def test_loading_again_and_again_takes_no_more_arena(bench_program: Path) -> None:
    models = itertools.cycle([DEMO[1].read_bytes(), DEMO[2].read_bytes()])
    with Bench(bench_program, arena_bytes=16_384) as bench:
        used = {bench.load(0, next(models)) for _ in range(60)}
        assert len(used) <= 2
        assert all(result == 0 for result, _ in used)
        assert bench.unload(0) == 0
        assert bench.unload(0) == 0
        assert bench.invoke(0, [bytes(WINDOW)])[0] < 0


def test_a_manifest_that_does_not_fit_its_model_is_refused(bench_program: Path) -> None:
    with Bench(bench_program) as bench:
        assert bench.load(0, DEMO[1].read_bytes(), bend=1) == (IO_CONTRACT, 0)
        assert bench.load(1, streaming(names=("ring", "older")), variables=1) == (IO_CONTRACT, 0)
        assert bench.load(0, DEMO[1].read_bytes())[0] == 0
        assert bench.invoke(0, [bytes(WINDOW - 1)])[0] == IO_CONTRACT
        assert bench.invoke(0, [bytes(WINDOW)], outputs=2)[0] == IO_CONTRACT


def test_models_that_crash_tflm_are_refused_unless_only_running_shows_it(bench_program: Path) -> None:
    for name in ("crash-tensor-index", "crash-short-buffer", "crash-no-options"):
        with Bench(bench_program) as bench:
            assert bench.load(0, MODELS[name].make(), like=DEMO[1].read_bytes()) == (SCHEMA, 0), name
            assert bench.load(0, DEMO[1].read_bytes())[0] == 0
    with Bench(bench_program) as bench:  # what a trial, a reset reason and a revert are for
        assert bench.load(0, MODELS["crash-slice"].make(), like=DEMO[1].read_bytes())[0] == 0
        with pytest.raises(BenchDiedError) as died:
            bench.invoke(0, [bytes(WINDOW)])
        assert died.value.status < 0


def test_the_reported_operators_are_those_that_are_linked(bench_program: Path) -> None:
    with Bench(bench_program) as bench:
        listed = cbor2.loads(bench.operators)
    builtin = [name[len("-DCONFIG_TINYFLEET_OP_") : -2] for name in library.linkable()]
    codes = {BUILTIN_CODES[name] for name in builtin if not name.startswith("CUSTOM_")}
    custom = {"CIRCULAR_BUFFER", "TFLite_Detection_PostProcess"}
    assert listed == encode_operators(sorted_operators([*codes, *custom]))


def test_the_profiler_names_every_operator_in_order(bench_program: Path) -> None:
    with Bench(bench_program) as bench:
        assert bench.load(0, DEMO[1].read_bytes())[0] == 0
        bench.invoke(0, [bytes(WINDOW)])
        assert bench.times() == []
        bench.profile(True)
        bench.invoke(0, [bytes(WINDOW)])
        names = [name for name, _ in bench.times()]
        assert names[0] == "RESHAPE"
        assert names[-2:] == ["FULLY_CONNECTED", "SOFTMAX"]
        assert bench.load(0, loop(turns=30, step=1))[0] == 0
        bench.invoke(0, [bytes(WINDOW)])
        assert len(bench.times()) == 65  # 64, and the sum of the rest
        assert bench.times()[-1][0] == ""
