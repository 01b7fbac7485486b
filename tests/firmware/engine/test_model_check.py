"""The index walk before TFLM touches a model: what is refused, and that no byte can lead it astray.

Runs under ASan and UBSan, each model in memory of exactly its size. Needs no TFLM.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.firmware.engine.convolution import without_dense_layers
from tests.firmware.engine.streaming import streaming
from tests.models.broken import BAD, change, is_refused, mutants, plan
from tests.models.graph import Op
from tests.models.make_models import MODELS, loop

ROOT = Path(__file__).resolve().parents[3]
DEMO = sorted((ROOT / "deploy" / "models").glob("*.tflite"))
ACTIVITY = ROOT / "deploy" / "models" / "activity-v1.tflite"
OK, OP_MISSING, SCHEMA = 0, -9, -10


def walk(
    program: Path, models: Sequence[bytes], *, unlinked: Sequence[int] = ()
) -> list[tuple[int, int, int]]:
    """(result, missing operator, variables) of each model."""
    linked = bytes(0 if code in unlinked else 1 for code in range(256))
    frames = b"".join(struct.pack("<I", len(model)) + model for model in models)
    done = subprocess.run([program], input=linked + frames, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [struct.unpack_from("<iII", done.stdout, 12 * i) for i in range(len(models))]


def test_good_models_pass(walk_program: Path) -> None:
    good = [path.read_bytes() for path in DEMO]
    good += [MODELS[name].make() for name in ("op-missing", "arena-hungry", "slow", "hang", "crash-in-use")]
    good += [
        streaming(),
        streaming(names=("a", "b", "c")),
        loop(turns=2, step=1),
        without_dense_layers(good[0]),
    ]
    results = walk(walk_program, good)
    assert [result for result, _, _ in results] == [OK] * len(good)
    assert [variables for _, _, variables in results[-4:-2]] == [1, 3]


def test_models_that_die_of_what_a_file_shows_are_refused(walk_program: Path) -> None:
    names = ["crash-tensor-index", "crash-short-buffer", "crash-no-options"]
    assert walk(walk_program, [MODELS[name].make() for name in names]) == [(SCHEMA, 0, 0)] * 3


def test_an_operator_that_is_not_linked_is_named(walk_program: Path) -> None:
    assert walk(walk_program, [ACTIVITY.read_bytes()], unlinked=[Op.SOFTMAX]) == [(OP_MISSING, Op.SOFTMAX, 0)]


@pytest.mark.parametrize("what", BAD)
def test_what_leads_nowhere_is_refused(what: str, walk_program: Path) -> None:
    assert walk(walk_program, [BAD[what]]) == [(SCHEMA, 0, 0)]


def test_a_sound_memory_plan_passes(walk_program: Path) -> None:
    assert walk(walk_program, [change(plan)]) == [(OK, 0, 0)]


def test_no_truncation_passes_with_its_end_missing(walk_program: Path) -> None:
    model = ACTIVITY.read_bytes()
    cut = [model[:n] for n in (*range(0, 700), *range(700, len(model) - 16, 97))]
    results = walk(walk_program, cut)
    assert {result for result, _, _ in results} == {SCHEMA}


@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutant_leads_the_walk_out_of_the_file(seed: int, walk_program: Path) -> None:
    models = [ACTIVITY.read_bytes(), streaming(names=("a", "b")), loop(turns=2, step=1)]
    made = [mutant for model in models for mutant in mutants(model, 4_000, seed=seed)]
    results = walk(walk_program, made)
    refused = sum(result != OK for result, _, _ in results)
    print(f"{len(made):,} mutants, {refused:,} refused, none led outside")
    assert 0 < refused < len(made)


@pytest.mark.parametrize("seed", [5, 6])
def test_the_servers_inspector_refuses_whatever_the_walk_refuses(seed: int, walk_program: Path) -> None:
    """Preflight must not release what devices then refuse."""
    sources = [ACTIVITY.read_bytes(), streaming(names=("a", "b")), loop(turns=2, step=1)]
    made = [*BAD.values(), *(mutant for model in sources for mutant in mutants(model, 1_500, seed=seed))]
    table = dict.fromkeys(((here, there) for here in (False, True) for there in (False, True)), 0)
    for (result, _, _), model in zip(walk(walk_program, made), made, strict=True):
        here, there = is_refused(model), result != OK
        table[here, there] += 1
        assert here or not there, f"the device refuses ({result}) what the inspector lets pass"
    print(
        f"{len(made):,} models: both refuse {table[True, True]:,}, the inspector alone {table[True, False]:,}"
    )
    assert table[True, True] > len(made) // 10
    assert table[False, False] > len(made) // 10


def test_models_that_kill_tflm_are_among_those_that_the_walk_refuses(walk_program: Path) -> None:
    """Mutants run in the wheel, each in a forked child. The walk sees indices and sizes, not the arithmetic
    of each kernel: a death that it lets through is for the trial, so one in this sample is not an error.
    """
    made = mutants(ACTIVITY.read_bytes(), 160, seed=11)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "survive.py")],
        input=b"".join(struct.pack("<I", len(model)) + model for model in made),
        capture_output=True,
        timeout=240,
        check=True,
    )
    ends = done.stdout.decode().split()
    table: dict[tuple[str, bool], int] = {}
    for end, (result, _, _) in zip(ends, walk(walk_program, made), strict=True):
        table[end, result == OK] = table.get((end, result == OK), 0) + 1
    print("in TFLM   walk passes  walk refuses")
    for end in ("ran", "refused", "died", "hung"):
        print(f"{end:9} {table.get((end, True), 0):11} {table.get((end, False), 0):13}")
    assert table.get(("died", False), 0) >= 1
    assert table.get(("died", True), 0) + table.get(("hung", True), 0) <= 1
