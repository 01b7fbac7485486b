"""The sandbox: what a model did arrives as a result or a code, and nothing stays behind."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota import probe_child
from ota.inspector import InspectionError, inspect
from ota.operators import BUILTIN_NAMES, CUSTOM, TFLM_BUILTINS, TFLM_CUSTOM
from ota.probe import ARENA_MAX_BYTES, CHILD, ProbeError, ProbeJob, ProbeLimits, ProbeResult, run_probe
from tests.ota import tflite_files as files
from tests.ota.mutants import mutate

ROOT = Path(__file__).parents[2]
ACTIVITY = (ROOT / "deploy/models/activity-v1.tflite").read_bytes()
SHORT = ProbeLimits(cpu_s=1, wall_s=3, memory_bytes=2 * 1024**3)


def job_of(model: bytes, *, rows: int = 1) -> ProbeJob:
    """A job of `rows` rows of zeros."""
    found = inspect(model)
    return ProbeJob.of(found, (bytes(sum(spec.byte_size for spec in found.inputs)),) * rows)


def refusal(model: bytes, limits: ProbeLimits | None = None, child: Path | None = None) -> ProbeError:
    """The error a model's probe ends with."""
    job = job_of(model)
    with pytest.raises(ProbeError) as caught:
        run_probe(model, job, limits=limits, child=child or CHILD)
    return caught.value


def test_a_classifier_runs_and_its_outputs_come_back() -> None:
    model = files.classifier()
    rows = tuple(
        np.array(row, np.int8).tobytes() for row in ([100, 0, 0, 0], [0, -5, 90, 3], [-128, 127, 1, 2])
    )
    found = run_probe(model, ProbeJob.of(inspect(model), rows))
    answers = [int(np.frombuffer(output, np.int8).argmax()) for output in found.outputs]
    assert answers == [0, 2, 1]
    assert found.outputs[1] == rows[1]
    assert found.invoke_us < 1_000_000
    assert ProbeResult.from_json(found.to_json()) == replace(found, outputs=())


def test_the_arena_minimum_is_the_smallest_that_works() -> None:
    found = run_probe(ACTIVITY, job_of(ACTIVITY))
    assert found.arena_is_exact
    assert found.arena_min_bytes >= found.arena_head_bytes + found.arena_tail_bytes
    script = (
        "import sys; from tflite_micro import runtime\n"
        "model = sys.stdin.buffer.read()\n"
        "runtime.Interpreter.from_bytes(model, arena_size=int(sys.argv[1])).invoke()\n"
    )
    for arena, works in ((found.arena_min_bytes, True), (found.arena_min_bytes - 16, False)):
        done = subprocess.run(
            [sys.executable, "-I", "-c", script, str(arena)], input=ACTIVITY, capture_output=True, check=False
        )
        assert (done.returncode == 0) is works, done.stderr.decode()


@given(st.integers(16, 2**20), st.integers(0, 2**20))
def test_bisection_finds_any_threshold(least: int, start: int) -> None:
    attempts: list[int] = []

    def works(arena: int) -> bool:
        attempts.append(arena)
        return arena >= least

    found = probe_child.smallest_arena(
        works, start=start, at_most=ARENA_MAX_BYTES, deadline=time.monotonic() + 60
    )
    assert len(attempts) == found["arena_attempts"] <= probe_child.ATTEMPTS_MAX
    assert found["arena_min_bytes"] >= least
    if found["arena_exact"]:
        assert found["arena_min_bytes"] - least <= 16


def test_bisection_near_the_recorded_size_is_exact_and_short() -> None:
    for extra in (0, 16, 432, 1968, 20_000):
        found = probe_child.smallest_arena(
            lambda arena, least=26_000 + extra: arena >= least,
            start=26_000 - 16,
            at_most=ARENA_MAX_BYTES,
            deadline=time.monotonic() + 60,
        )
        assert found["arena_exact"]
        assert found["arena_attempts"] <= 20


def test_bisection_past_its_deadline_gives_an_upper_bound() -> None:
    found = probe_child.smallest_arena(lambda arena: arena >= 5000, start=100, at_most=8192, deadline=0)
    assert found == {"arena_min_bytes": 8192, "arena_attempts": 0, "arena_exact": False}


def test_state_is_forgotten_between_rows_only_when_asked() -> None:
    found = inspect(files.accumulator())
    one = np.ones(4, np.float32).tobytes()
    apart = run_probe(files.accumulator(), ProbeJob.of(found, (one,) * 3)).outputs
    together = run_probe(files.accumulator(), ProbeJob.of(found, (one,) * 3, independent=False)).outputs
    assert [float(np.frombuffer(output, np.float32)[0]) for output in apart] == [1, 1, 1]
    assert [float(np.frombuffer(output, np.float32)[0]) for output in together] == [1, 2, 3]


def test_a_model_that_fills_its_variables_once_starts_anew_for_every_row() -> None:
    # Reset() would leave zeros, because TFLM does not run CALL_ONCE again; no reset would add up: 8, 9.
    model = files.accumulator(start=7)
    outputs = run_probe(model, ProbeJob.of(inspect(model), (np.ones(4, np.float32).tobytes(),) * 2)).outputs
    assert [np.frombuffer(output, np.float32).tolist() for output in outputs] == [[8.0] * 4] * 2


def test_a_crashing_model_is_refused_with_a_code() -> None:
    error = refusal(files.custom("SignalFramer"))
    assert error.code == "probe_crash"
    assert "SIGSEGV" in error.text


def test_a_hanging_model_is_refused_with_a_code() -> None:
    started = time.monotonic()
    assert refusal(files.endless(), SHORT).code == "probe_timeout"
    assert time.monotonic() - started < 8


def test_what_tflm_refuses_is_refused_in_its_words() -> None:
    error = refusal(files.hybrid())
    assert error.code == "load_failed"
    assert "FLOAT32 with filter type: INT8" in error.text


def test_a_model_beyond_any_arena_is_refused() -> None:
    error = refusal(files.convolution(ic=64, oc=4, size=512, kernel=1))
    assert error.code == "arena_too_small"
    assert "16 MiB" in error.text


def child(folder: Path, body: str) -> Path:
    """A fake probe: a script that counts its starts and then does `body`."""
    path = folder / "child.py"
    path.write_text(f"import os, sys, time, signal\nopen(__file__ + '.starts', 'a').write('x')\n{body}\n")
    return path


def answer(text: str) -> str:
    """The body of a fake probe that answers with `text` and no rows."""
    data = struct.pack(">II", len(text), 0) + text.encode()
    return f"sys.stdout.buffer.write({data!r})"


def starts(path: Path) -> int:
    return len(Path(f"{path}.starts").read_text())


@pytest.mark.parametrize(
    ("body", "code", "started"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "probe_crash", 1),
        ("os.abort()", "probe_crash", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", "probe_memory", 1),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "probe_timeout", 1),
        ("time.sleep(60)", "probe_timeout", 2),
        ("sys.stdout.buffer.write(b'x' * 10_000_000)", "probe_crash", 1),
        ("sys.stderr.write('y' * 10_000_000); sys.exit(3)", "probe_crash", 1),
        ("sys.stdout.write('{}')", "probe_crash", 1),
        (
            "sys.stdout.buffer.write((2).to_bytes(4, 'big') + (0).to_bytes(4, 'big') + b'{}')",
            "probe_crash",
            1,
        ),
        (
            "sys.stdout.buffer.write((9).to_bytes(4, 'big') + (4).to_bytes(4, 'big') + b'{\"a\": 12}rows')",
            "probe_crash",
            1,
        ),
        ("", "probe_crash", 1),
        (answer('{"signal": "' + "x" * 5000 + '"}'), "probe_crash", 1),
        (answer('{"signal": 11}'), "probe_crash", 1),
        (answer('{"error": "RuntimeError", "text": "' + "y" * 5000 + '\\n"}'), "load_failed", 1),
        (answer("[" * 5000), "probe_crash", 1),
    ],
)
def test_whatever_the_child_does_has_a_code(tmp_path: Path, body: str, code: str, started: int) -> None:
    path = child(tmp_path, body)
    error = refusal(files.classifier(), replace(SHORT, wall_s=1), path)
    assert (error.code, starts(path)) == (code, started)
    assert len(error.text) < 1000
    assert error.text.isprintable()


def test_a_probe_that_takes_all_memory_is_stopped() -> None:
    # Room for the runtime itself and 8 MiB more: the interpreter's first arena of 16 MiB does not fit.
    script = "import numpy; from tflite_micro import runtime; print(open('/proc/self/status').read())"
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], env=environment, capture_output=True, check=True, text=True
    )
    peak = int(done.stdout.partition("VmPeak:")[2].split()[0]) * 1024
    error = refusal(files.classifier(), replace(SHORT, memory_bytes=peak + 8 * 1024**2))
    assert error.code == "probe_memory"


def test_the_child_gets_no_environment_and_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYFLEET_TEST_SECRET", "leak")
    seen = tmp_path / "seen"
    body = f"import json\njson.dump([dict(os.environ), sys.path, os.getcwd()], open({str(seen)!r}, 'w'))"
    refusal(files.classifier(), SHORT, child(tmp_path, body))
    environment, path, folder = json.loads(seen.read_text())
    assert set(environment) <= {"LC_CTYPE"}  # the interpreter itself sets that one
    assert str(ROOT) not in path
    assert folder == "/"


def test_nothing_stays_behind(tmp_path: Path) -> None:
    body = f"""
if os.fork() == 0:
    os.close(0); os.close(1); os.close(2)
    time.sleep(60)
open({str(tmp_path / "group")!r}, 'w').write(str(os.getpgid(0)))
"""
    refusal(files.classifier(), SHORT, child(tmp_path, body))
    group = int((tmp_path / "group").read_text())
    assert group != os.getpgid(0)
    deadline = time.monotonic() + 5
    alive = True
    while alive and time.monotonic() < deadline:
        alive = any(_group(entry) == group for entry in Path("/proc").iterdir() if entry.name.isdigit())
        time.sleep(0.01)
    assert not alive


def _group(entry: Path) -> int | None:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[2])


def test_no_mutant_gets_out_of_the_sandbox() -> None:
    codes: dict[str, int] = {}
    for source in (ACTIVITY, files.convolution(), files.variable(assigned=True)):
        tried = 0
        for mutant in mutate(source, 200, seed=11):
            try:
                found = inspect(mutant)
            except InspectionError:
                continue
            if found.refusals or tried == 8:
                continue
            tried += 1
            try:
                rows = (bytes(sum(spec.byte_size for spec in found.inputs)),)
                run_probe(mutant, ProbeJob.of(found, rows), limits=SHORT)
                code = "ran"
            except ProbeError as error:
                code = error.code
            codes[code] = codes.get(code, 0) + 1
    assert sum(codes.values()) >= 20
    assert set(codes) <= {
        "ran",
        "load_failed",
        "probe_crash",
        "probe_timeout",
        "probe_memory",
        "arena_too_small",
    }


def test_the_operator_table_is_the_one_of_the_wheel() -> None:
    """Ask the runtime to resolve every builtin code and every custom name once, each in a fork."""
    names = [name for code, name in BUILTIN_NAMES.items() if code != CUSTOM] + [
        *sorted(TFLM_CUSTOM),
        "NoSuchOperator",
    ]
    models = [files.single(name) for name in names]
    payload = b"".join(struct.pack(">I", len(model)) + model for model in models)
    done = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).with_name("resolve_operators.py"))],
        input=payload,
        capture_output=True,
        check=True,
    )
    answers = dict(zip(names, done.stdout.decode().split(), strict=True))
    found = {name for name, answer in answers.items() if answer == "found"}
    assert found == {BUILTIN_NAMES[code] for code in TFLM_BUILTINS} | TFLM_CUSTOM
