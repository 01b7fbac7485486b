"""How often the demo's gate decides as the story tells, by simulation on the real models and recordings.

    python -m tests.bench.demo_gate [--repeats N] [--json]

Every committed model answers every window of the people whom virtual devices wear (TFLM, this process is its
own child). Then rollouts are drawn: devices replay as `recordings.stream` does, `pairs` of them run the new
model against as many that keep the old one, and the e-processes of `ota.gates.quality` judge the pairs one by
one. Printed for the demo's plan, and for replays in which windows of one exercise come in longer runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tflite_micro.python.tflite_micro import runtime

from device_firmware.host.recordings import FIELD_SUBJECTS, Recording, load_subject, stream
from fleet.demo import plans
from ota.gates import quality
from ota.plan import ALPHA, Plan
from tests.models.watch import ROOT, watch_dir

ARENA_BYTES = 60_000
SCALE = 16.0
POOL = 400
GAP = 200
ALPHA_HALT, ALPHA_PROMOTE = 0.02, 0.05
"""Accuracy in the first gated wave (four fifths of half of 0.05), and promotion's own."""
PLAN = Plan.parse(plans.gated(64))
STORY = (("activity-v2", "activity-v1"), ("activity-v3", "activity-v2"), ("activity-v1", "activity-v1"))

Bools = npt.NDArray[np.bool_]


def answers(name: str, recording: Recording) -> Bools:
    """Which windows a committed model names rightly, bool (n,)."""
    path = ROOT / "deploy" / "models" / f"{name}.tflite"
    interpreter = runtime.Interpreter.from_file(str(path), arena_size=ARENA_BYTES)
    right = []
    for window, label in zip(recording.x, recording.y, strict=True):
        interpreter.set_input(np.clip(np.round(window * SCALE), -128, 127).astype(np.int8)[None], 0)
        interpreter.invoke()
        right.append(int(interpreter.get_output(0).argmax()) == int(label))
    return np.array(right)


def simulate(
    right: dict[tuple[str, int], Bools],
    people: dict[int, Recording],
    new: str,
    old: str,
    *,
    inferences: int,
    run: int,
    repeats: int,
) -> dict[str, float]:
    """Shares of rollouts that pass, halt, or stay inconclusive in one wave, and the spread of a pair.

    inferences: of history, and again in the comparison window. The same arguments give the same numbers.
    """
    rng = np.random.default_rng(1)
    kept = []
    for index in range(POOL):
        subject = FIELD_SUBJECTS[index % len(FIELD_SUBJECTS)]
        person = people[subject]
        numbered = dataclasses.replace(person, x=np.arange(len(person.y), dtype=np.float32))
        replay = stream(numbered, seed=int(rng.integers(1 << 30)), run=run)
        order = np.array([int(next(replay)[0]) for _ in range(2 * inferences + GAP)])
        history, window = order[:inferences], order[-inferences:]
        before, after = right[old, subject], right[new, subject]
        kept.append((before[history].mean(), before[window].mean(), after[window].mean()))
    x, y_old, y_new = np.array(kept).T
    ends = {"passed": 0, "halted": 0, "inconclusive": 0}
    differences = []
    for _ in range(repeats):
        drawn = rng.permutation(POOL)[: 2 * plans.FIRST_WAVE]
        wave, control = drawn[: plans.FIRST_WAVE], drawn[plans.FIRST_WAVE :]
        d = (y_old[control] - x[control]) - (y_new[wave] - x[wave])
        differences.append(d)
        ends[_end(d.tolist())] += 1
    return {key: count / repeats for key, count in ends.items()} | {
        "drop": float(np.mean(differences)),
        "pair_sd": float(np.std(differences)),
    }


def _end(d: list[float]) -> str:
    accuracy, alpha = PLAN.metrics[0], PLAN.alphas(0, 2)[0]
    harm = np.array(quality.harm(d, accuracy.halt_margin))
    proof = np.array(quality.non_inferiority(d, accuracy.promote_margin))
    if harm.max() >= -np.log(alpha):
        return "halted"
    is_proven = proof[-1] >= -np.log(ALPHA) and len(d) >= PLAN.min_pairs
    return "passed" if is_proven else "inconclusive"


def table(data_dir: Path, *, repeats: int) -> list[dict[str, Any]]:
    """One row for each replay and each pair of models of the story."""
    people = {subject: load_subject(data_dir, subject) for subject in FIELD_SUBJECTS}
    names = sorted({name for pair in STORY for name in pair})
    right = {(name, subject): answers(name, people[subject]) for name in names for subject in people}
    demo = round(plans.WINDOW_S * 1000 / plans.DEVICE_CONFIG["period_ms"])
    rows = []
    for inferences, run in ((demo, 1), (demo, 5), (demo // 2, 1), (demo // 2, 5)):
        for new, old in STORY:
            ends = simulate(right, people, new, old, inferences=inferences, run=run, repeats=repeats)
            rows.append({"new": new, "old": old, "inferences": inferences, "run": run} | ends)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=2_000, help="simulated waves a row (default 2000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = table(watch_dir(), repeats=options.repeats)
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{plans.FIRST_WAVE} pairs, margin 10 points, {options.repeats} simulated waves a row")
    print("new          over old       inferences  run   passed  halted  inconcl.   drop  pair sd")
    for row in rows:
        print(
            f"{row['new']}  {row['old']}  {row['inferences']:>12}  {row['run']:>3}   {row['passed']:6.3f}"
            f"  {row['halted']:6.3f}  {row['inconclusive']:8.3f}  {row['drop']:+.3f}  {row['pair_sd']:7.3f}"
        )


if __name__ == "__main__":
    main()
