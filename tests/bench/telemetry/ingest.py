"""How fast telemetry goes from devices into PostgreSQL, against the same load with nothing behind the broker.

    python -m tests.bench.telemetry.ingest [--short] [--devices 1000] [--seconds 20] [--pairs 5]
        [--records 1,10,60] [--rate SAMPLES_PER_S] [--readers lean,paho] [--slots 2] [--saving stack]
        [--json FILE]

A private Mosquitto and a durable PostgreSQL with the stack's settings, `manage.py gateway` as its own
process, and a generator in C: one connection a device, QoS 1, each batch sealed by HMAC-SHA-256, flat out
unless --rate paces it. Cells A (raw: a subscriber in C that acknowledges and does nothing else) and B
(the gateway, by each of --readers: committed, deduplicated, rolled up) alternate, and so does which comes
first. The time of a cell ends when the last record is stored, or acknowledged by the raw subscriber. stored
!= sent voids the run. The raw subscriber has no TLS, the gateway has.

Printed: medians, their ratio, and CPU microseconds a sample of each process. Rates of this machine mean
nothing elsewhere; ratios of one interleaved run do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from fleet.gateway.source import READERS
from tests.bench.saving import SAVINGS
from tests.bench.telemetry import cells, programs
from tests.bench.telemetry.cells import Cell, Load
from tests.bench.telemetry.installation import Installation, installed

SHORT_RATIO = 0.01
"""A short run passes above this: it guards exact counts, and against a gateway that waits, not works."""
FIRST_BOOT = 1
WARM_UP = Load(messages=1000, records=10)
MESSAGES_PER_S = {1: 8000, 10: 4000, 60: 1500}
"""What sizes a cell: about what two cores take, so that it lasts about --seconds."""


def run(args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Every cell; returns what was measured."""
    built = programs.compile_into(folder / "programs")
    with installed(folder / "run", devices=args.devices, saving=args.saving) as there:
        boots = iter(range(FIRST_BOOT, 1 << 20))
        for who in _sides(args):  # warm-up, not counted
            _cell(there, built, WARM_UP, who, next(boots), args)
        found: list[Cell] = []
        for records in args.records:
            load = _load(args, records)
            for pair in range(args.pairs):
                for who in _sides(args)[:: 1 if pair % 2 == 0 else -1]:
                    cell = _cell(there, built, load, who, next(boots), args)
                    say(
                        f"{who:>8}  {records:>2} a message  {cell.per_s:>9,.0f} samples/s  {cell.s:.1f} s"
                        f"  load {cell.load_average:.1f}"
                    )
                    found.append(cell)
    return {
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "cores": os.cpu_count(),
        "cells": [cell.as_json() for cell in found],
        "rows": rows(found),
    }


def _sides(args: argparse.Namespace) -> list[str]:
    return list(args.readers) if args.rate else ["raw", *args.readers]


def _load(args: argparse.Namespace, records: int) -> Load:
    rate = args.rate / records if args.rate else 0.0
    per_s = rate or MESSAGES_PER_S.get(records, 2000) * args.scale
    return Load(messages=max(args.devices, int(per_s * args.seconds)), records=records, rate=rate)


def _cell(
    there: Installation,
    built: programs.Programs,
    load: Load,
    who: str,
    boot: int,
    args: argparse.Namespace,
) -> Cell:
    if who == "raw":
        return cells.raw(there, built, load, boot=boot, deadline_s=args.deadline)
    options: list[Sequence[str]] = [("--role", "telemetry", "--reader", who)]
    if args.slots > 1:
        options = [(*options[0], "--slot", str(slot), "--shared") for slot in range(args.slots)]
    return cells.gateway(there, built, load, boot=boot, deadline_s=args.deadline, options=options, who=who)


def rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Medians by records a message and side; ratio: a gateway's rate to the raw one's."""
    result = []
    for records in sorted({cell.load.records for cell in found}):
        raw_rate = None
        cells_of = [cell for cell in found if cell.load.records == records]
        for who in sorted({cell.who for cell in cells_of}, key=lambda who: (who != "raw", who)):
            same = [cell for cell in cells_of if cell.who == who]
            rate = median(cell.per_s for cell in same)
            raw_rate = rate if who == "raw" else raw_rate
            result.append(
                {
                    "records": records,
                    "who": who,
                    "n": len(same),
                    "samples_per_s": round(rate),
                    "messages_per_s": round(rate / records),
                    "ratio": round(rate / raw_rate, 3) if raw_rate else None,
                    "us": {
                        name: round(median(cell.us(name) for cell in same), 2)
                        for name in sorted({name for cell in same for name in cell.cpu_s})
                    },
                    "rss_mib": max(cell.rss_mib for cell in same),
                    "late_s": max(cell.late_s for cell in same),
                }
            )
    return result


def table(found: Sequence[dict[str, Any]]) -> str:
    """What a person reads."""
    names = ("gateway", "postgres", "broker", "generator", "acker")
    head = f"{'records':>7} {'side':>8} {'n':>2} {'samples/s':>10} {'messages/s':>10} {'ratio':>6}"
    lines = [head + "".join(f" {name:>10}" for name in names) + f" {'MiB':>6} {'late s':>7}"]
    for row in found:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        line = f"{row['records']:>7} {row['who']:>8} {row['n']:>2} {row['samples_per_s']:>10,}"
        line += f" {row['messages_per_s']:>10,} {ratio:>6}"
        line += "".join(f" {row['us'][name]:>10.2f}" if name in row["us"] else " " * 11 for name in names)
        lines.append(f"{line} {row['rss_mib']:>6.0f} {row['late_s']:>7.2f}")
    return "\n".join([*lines, "processes: CPU microseconds a sample"])


def verdict(found: Sequence[dict[str, Any]], least: float) -> str:
    """`ok`, or which ratio is too small. Counts were checked by each cell."""
    for row in found:
        if row["who"] != "raw" and row["ratio"] is not None and row["ratio"] < least:
            return f"{row['who']}, {row['records']} a message: ratio {row['ratio']} is below {least}"
    return "ok"


def parser() -> argparse.ArgumentParser:
    """Options; see the module docstring."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.telemetry.ingest", description=__doc__)
    options.add_argument("--short", action="store_true", help="one small pair each: what CI runs")
    options.add_argument("--devices", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=20.0, help="length of a cell, about")
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument(
        "--records", type=lambda text: [int(n) for n in text.split(",")], default=[1, 10, 60]
    )
    options.add_argument("--rate", type=float, default=0.0, help="samples/s, the gateway alone; 0: flat out")
    options.add_argument(
        "--readers",
        type=lambda text: text.split(","),
        default=[READERS[0]],
        help="how the gateway reads: one side each",
    )
    options.add_argument("--slots", type=int, default=1, help="gateway processes that share the load")
    options.add_argument("--scale", type=float, default=1.0, help="makes cells longer on a faster machine")
    options.add_argument("--saving", choices=SAVINGS, default="stack", help="when the broker saves its store")
    options.add_argument("--least", type=float, default=0.0, help="exit 1 below this ratio")
    options.add_argument("--deadline", type=float, default=900.0, help="seconds of a cell")
    options.add_argument("--json", type=Path, help="write everything that was measured here")
    return options


def main() -> int:
    """Command line entry. 0: all counts are exact and the ratios reach --least."""
    args = parser().parse_args()
    if args.short:
        args.seconds, args.pairs, args.least = 1.0, 1, max(args.least, SHORT_RATIO)
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        try:
            result = run(args, Path(folder), lambda line: print(line, file=sys.stderr, flush=True))
        except cells.VoidError as error:
            print(f"void: {error}")
            return 1
    result["verdict"] = verdict(result["rows"], args.least)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result["rows"]))
    print("verdict:", result["verdict"])
    return 0 if result["verdict"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
