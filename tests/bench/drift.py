"""How often a device that is clean alarms for drift, and which statistic sees which fault.

    python -m tests.bench.drift [--weeks N | --long] [--reference NAME ..] [--first N] [--clean-only]

Limits (exit status 1 when one is missed): at most 2 % of clean device-weeks alarm, with a reference of a week
and with one of peers; each of the five faults of the design alarms on at least 95 % of devices; the offset
does so while mean confidence rises. A week is 672 windows of a quarter of an hour, a device alarms when 3 of
its last 5 are flagged at any time of it. Windows are drawn from real answers of activity-v2 to recorded wear
of five people: each device has its own three fifths of one person's windows, so devices differ as people do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fleet.telemetry import psi, shifts
from fleet.telemetry.shifts import Judgement, Reference, Seen
from tests.telemetry.worn import FAULTS, Wearer

WEEK = 672
FIRST = 5_000
"""Devices that are judged have other numbers than those a reference is made of."""
REFERENCES = {
    "week": ("week, 200 devices", 200, 10),
    "peers": ("peers, 40 devices", 40, 4),
    "few": ("peers, 20 devices", 20, 4),
}
FALSE_MOST, SEEN_LEAST = 0.02, 0.95
NAMES = ("input", "class", "distance")


def reference(devices: int, each: int, n: int, *, offset: int = 0) -> Reference:
    """Of clean devices with so many windows each."""
    windows: list[tuple[str, Seen]] = []
    for device in range(offset, offset + devices):
        wearer = Wearer(device)
        windows += [(str(device), wearer.seen(n)) for _ in range(each)]
    found = shifts.reference_of(windows)
    assert found is not None
    return found


def alarms(judged: Sequence[Judgement]) -> bool:
    """Whether MANY of OF windows in a row are flagged anywhere."""
    flagged = np.array([one.worst > 1 for one in judged], dtype=np.int64)
    return bool((np.convolve(flagged, np.ones(psi.OF, np.int64), "valid") >= psi.MANY).any())


def median_only(seen: Seen, found: Reference, inflation: float) -> bool:
    """Class PSI by chance times the median inflation: the rule of the design, as a rival."""
    if seen.classes is None or found.classes is None:
        return False
    reference_counts = found.classes.counts
    bins = psi.bins_of(reference_counts, seen.classes)
    limit = psi.psi_limit(bins, int(reference_counts.sum()), seen.n) * inflation
    return psi.psi(reference_counts[:bins], seen.classes[:bins]) > limit


def clean_rows(weeks: int, n: int, names: Sequence[str], first: int = FIRST) -> list[dict[str, Any]]:
    """Share of clean device-weeks that alarm, by kind of reference."""
    rows = []
    for label, devices, each in (REFERENCES[name] for name in names):
        found = reference(devices, each, n, offset=0 if devices > 40 else 1_000)
        assert found.classes is not None
        own = [Wearer(device).seen(n).classes for device in range(devices)]
        inflation = psi.inflation(found.classes.counts, [one for one in own if one is not None])
        n_alarms, n_rival, windows, flags = 0, 0, 0, 0
        for device in range(first, first + weeks):
            wearer = Wearer(device)
            seen = [wearer.seen(n) for _ in range(WEEK)]
            judged = [shifts.judge(one, found) for one in seen]
            n_alarms += alarms(judged)
            windows += len(judged)
            flags += sum(one.worst > 1 for one in judged)
            n_rival += sum(median_only(one, found, inflation) for one in seen[:5]) >= psi.MANY
        rows.append(
            {
                "reference": label, "n": n, "weeks": weeks, "alarms": n_alarms, "share": n_alarms / weeks,
                "flagged": flags / windows, "median_inflation": n_rival / weeks,
            }
        )  # fmt: skip
    return rows


def fault_rows(devices: int, n: int) -> list[dict[str, Any]]:
    """Of each fault: devices that alarm by each statistic, accuracy and mean confidence."""
    found, rows = reference(40, 4, n, offset=1_000), []
    for fault in FAULTS:
        by = dict.fromkeys((*NAMES, "any"), 0)
        sure, right = [], []
        for device in range(FIRST, FIRST + devices):
            wearer = Wearer(device)
            judged = [shifts.judge(wearer.seen(n, fault), found) for _ in range(psi.OF)]
            for name in NAMES:
                by[name] += sum(one.ratios[name] > 1 for one in judged) >= psi.MANY
            by["any"] += alarms(judged)
            sure += [one.confidence or 0.0 for one in judged]
            right.append(wearer.accuracy(n, fault))
        shares = {name: count / devices for name, count in by.items()}
        rows.append(
            {"fault": fault, "accuracy": float(np.mean(right)), "confidence": float(np.mean(sure)), **shares}
        )
    return rows


def missed(clean: Sequence[dict[str, Any]], faults: Sequence[dict[str, Any]]) -> list[str]:
    """What is not as it must be."""
    texts = [f"{row['reference']}: {row['share']:.1%}" for row in clean if row["share"] > FALSE_MOST]
    if not faults:
        return texts
    none, offset = faults[0], faults[-1]
    texts += [f"{row['fault']}: {row['any']:.0%} seen" for row in faults[1:] if row["any"] < SEEN_LEAST]
    if offset["confidence"] <= none["confidence"] or offset["accuracy"] >= none["accuracy"] - 0.3:
        texts.append("the offset does not raise confidence while accuracy falls")
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; 1 when a limit is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weeks", type=int, default=20, help="clean device-weeks of each reference")
    parser.add_argument("--long", action="store_true", help="200 of them")
    parser.add_argument("--inferences", type=int, default=900, help="of a window")
    parser.add_argument("--reference", nargs="*", choices=REFERENCES, default=list(REFERENCES))
    parser.add_argument("--first", type=int, default=FIRST, help="number of the first clean device")
    parser.add_argument("--clean-only", action="store_true", help="no faults")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    weeks = 200 if given.long else given.weeks
    clean = clean_rows(weeks, given.inferences, given.reference, given.first)
    faults = [] if given.clean_only else fault_rows(100, given.inferences)
    print(f"{'clean device-weeks':<20} {'n':>4} {'weeks':>6} {'alarm':>6} {'windows flagged':>16}", end="")
    print(f" {'by chi2 and median inflation':>29}")
    for row in clean:
        print(
            f"{row['reference']:<20} {row['n']:>4} {row['weeks']:>6} {row['share']:>6.1%}"
            f" {row['flagged']:>16.3%} {row['median_inflation']:>29.1%}"
        )
    if faults:
        print(
            f"\n{'fault':<20} {'accuracy':>9} {'confidence':>11}", *(f"{name:>9}" for name in (*NAMES, "any"))
        )
    for row in faults:
        shares = (f"{row[name]:>9.0%}" for name in (*NAMES, "any"))
        print(f"{row['fault']:<20} {row['accuracy']:>9.3f} {row['confidence']:>11.3f}", *shares)
    if given.json:
        given.json.write_text(json.dumps({"clean": clean, "faults": faults}, indent=1) + "\n")
    problems = missed(clean, faults)
    for text in problems:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
