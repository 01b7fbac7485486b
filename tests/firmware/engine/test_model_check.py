"""The index walk before TFLM touches a model: what is refused, and that no byte can lead it astray.

Runs under ASan and UBSan, each model in memory of exactly its size. Needs no TFLM.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ota.errors import OtaError
from ota.inspector import inspect
from tests.firmware.engine.convolution import without_dense_layers
from tests.firmware.engine.streaming import streaming
from tests.models.graph import Graph, Op, schema
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


def change(edit: Callable[[Graph], None], *, model: Callable[[], bytes] = ACTIVITY.read_bytes) -> bytes:
    """A model after one change."""
    graph = Graph(model())
    edit(graph)
    return graph.pack()


def _dense(graph: Graph) -> list[int]:
    return list(graph.find(Op.FULLY_CONNECTED).inputs)


def _set(thing: object, **values: object) -> None:
    for name, value in values.items():
        setattr(thing, name, value)


def _metadata(graph: Graph, words: Sequence[int]) -> None:
    entry = schema.MetadataT()
    entry.name, entry.buffer = "OfflineMemoryAllocation", len(graph.model.buffers)
    graph.model.buffers.append(schema.BufferT())
    graph.model.buffers[-1].data = np.frombuffer(struct.pack(f"<{len(words)}i", *words), np.uint8)
    graph.model.metadata = [entry]


def _plan(graph: Graph, *, n: int = 0, offset: int = -1) -> None:
    tensors = len(graph.model.subgraphs[0].tensors)
    _metadata(graph, [1, 0, tensors + n, *[offset] * tensors])


def _custom(graph: Graph) -> None:
    _set(graph.model.operatorCodes[0], builtinCode=32, deprecatedBuiltinCode=32, customCode=None)


def _variable(name: str | None, container: str | None) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        _set(graph.find(Op.VAR_HANDLE).builtinOptions, sharedName=name, container=container)

    return edit


def _calls(index: int) -> Callable[[Graph], None]:
    return lambda graph: _set(graph.find(Op.WHILE).builtinOptions, bodySubgraphIndex=index)


BAD: dict[str, bytes] = {
    "schema version": change(lambda g: _set(g.model, version=2)),
    "no subgraph": change(lambda g: _set(g.model, subgraphs=[])),
    "a tensor's buffer": change(lambda g: _set(g.at(3), buffer=9_999)),
    "an operator's output": change(lambda g: _set(g.find(Op.MEAN), outputs=[-1])),
    "an operator's input": change(lambda g: _set(g.find(Op.MEAN), inputs=[-2, 0])),
    "an operator's code": change(lambda g: _set(g.find(Op.MEAN), opcodeIndex=64)),
    "the options of another operator": change(
        lambda g: _set(g.find(Op.MAX_POOL_2D), opcodeIndex=g.find(Op.SOFTMAX).opcodeIndex)
    ),
    "a graph's input": change(lambda g: g.io([999], g.model.subgraphs[0].outputs)),
    "a graph's output": change(lambda g: g.io(g.model.subgraphs[0].inputs, [-1])),
    "no input at all": change(lambda g: g.io([], g.model.subgraphs[0].outputs)),
    "a negative dimension": change(lambda g: _set(g.at(_dense(g)[0]), shape=[1, -32])),
    "dimensions whose product wraps": change(lambda g: _set(g.at(_dense(g)[1]), shape=[65_536, 65_536, 4])),
    "nine dimensions": change(lambda g: _set(g.at(_dense(g)[0]), shape=[1] * 8 + [32])),
    "fewer scales than channels": change(lambda g: _set(g.at(_dense(g)[1]), shape=[3, 32])),
    "an axis out of range": change(lambda g: _set(g.at(_dense(g)[1]).quantization, quantizedDimension=2)),
    "zero points for some channels": change(
        lambda g: _set(g.at(_dense(g)[1]).quantization, zeroPoint=np.zeros(3, np.int64))
    ),
    "a custom operator without a name": change(_custom),
    "a plan for more tensors than it has": change(lambda g: _plan(g, n=1)),
    "a plan with an offset below zero": change(lambda g: _plan(g, offset=-8)),
    "a plan of two words": change(lambda g: _metadata(g, [1, 0])),
    "a loop that calls itself": change(_calls(0), model=lambda: loop(turns=2, step=1)),
    "a loop without its body": change(_calls(7), model=lambda: loop(turns=2, step=1)),
    "a variable without a name": change(_variable(None, ""), model=streaming),
    "containers on some variables only": change(_variable("ring", None), model=streaming),
}


@pytest.mark.parametrize("what", BAD)
def test_what_leads_nowhere_is_refused(what: str, walk_program: Path) -> None:
    assert walk(walk_program, [BAD[what]]) == [(SCHEMA, 0, 0)]


def test_a_sound_memory_plan_passes(walk_program: Path) -> None:
    assert walk(walk_program, [change(_plan)]) == [(OK, 0, 0)]


def test_no_truncation_passes_with_its_end_missing(walk_program: Path) -> None:
    model = ACTIVITY.read_bytes()
    cut = [model[:n] for n in (*range(0, 700), *range(700, len(model) - 16, 97))]
    results = walk(walk_program, cut)
    assert {result for result, _, _ in results} == {SCHEMA}


def mutants(model: bytes, n: int, *, seed: int) -> list[bytes]:
    """n copies, each with one to four changed words or bytes, at places where structure is likely."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        copy = bytearray(model)
        for _ in range(int(random.integers(1, 5))):
            at = int(random.integers(0, len(copy) - 4))
            match int(random.integers(0, 4)):
                case 0:
                    copy[at] ^= 1 << int(random.integers(0, 8))
                case 1:
                    struct.pack_into("<i", copy, at & ~3, int(random.integers(-(2**31), 2**31)))
                case 2:
                    struct.pack_into("<i", copy, at & ~3, int(random.integers(-3, 70)))
                case _:
                    struct.pack_into("<H", copy, at & ~1, int(random.integers(0, 65_536)))
        made.append(bytes(copy))
    return made


@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutant_leads_the_walk_out_of_the_file(seed: int, walk_program: Path) -> None:
    models = [ACTIVITY.read_bytes(), streaming(names=("a", "b")), loop(turns=2, step=1)]
    made = [mutant for model in models for mutant in mutants(model, 4_000, seed=seed)]
    results = walk(walk_program, made)
    refused = sum(result != OK for result, _, _ in results)
    print(f"{len(made):,} mutants, {refused:,} refused, none led outside")
    assert 0 < refused < len(made)


def test_the_servers_inspector_refuses_whatever_the_walk_refuses(walk_program: Path) -> None:
    """Preflight must not release what devices then refuse: `schema` here is `schema` there."""
    made = [*mutants(streaming(names=("a", "b")), 400, seed=5), *BAD.values()]
    passed = []
    for (result, _, _), model in zip(walk(walk_program, made), made, strict=True):
        if result == SCHEMA:
            try:
                inspect(model)
            except OtaError:
                continue
            passed.append(model)
    print(f"{len(passed)} of {len(made)} models pass the inspector and are refused by the walk")
    assert len(passed) <= len(made) // 20


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
