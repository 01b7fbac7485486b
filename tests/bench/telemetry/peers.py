"""Our storage stage beside InfluxDB 1.x and VictoriaMetrics: the same windows, 5,000 a batch, one machine.

    python -m tests.bench.telemetry.peers [--batches 40] [--pairs 5] [--devices 500] [--json FILE]

The peers are Debian packages, which nothing else here needs: `apt-get install influxdb victoria-metrics`. One
that is not installed is said to be missing, and left out.

Ours is `telemetry.ingest.store`: COPY, insert with deduplication, minutes, device days and last values,
COMMIT on a PostgreSQL with the stack's durable settings. The peers get ready-made line protocol over HTTP,
from one connection; ours gets parsed batches: neither side pays for MQTT, MAC or decoding. Cells alternate,
and so does which comes first.

Not like for like, and the table says where: what a batch that is sent twice leaves, and what is still there
after kill -9 right behind the last answer, are measured here as well. Rates of this machine mean nothing
elsewhere; ratios of one interleaved run do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.telemetry.peer_stores import BATCH, Store, batch_of, stores


@dataclass(frozen=True)
class Cell:
    """One run of a store: seconds, and CPU seconds of its server and of this process meanwhile."""

    s: float
    server_s: float
    client_s: float


def cell(store: Store, batches: Sequence[Any]) -> Cell:
    """Write these batches and time it."""
    server, client, began = store.used_s(), time.process_time(), time.perf_counter()
    for batch in batches:
        store.write(batch)
    took = time.perf_counter() - began
    return Cell(took, store.used_s() - server, time.process_time() - client)


def run(args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Every cell, then a batch twice, size and crash; what was measured, by store."""
    start = (datetime.now(UTC) - timedelta(days=2)).replace(microsecond=0)
    with stores(folder, start, say) as found:
        numbers = iter(range(1 << 30))
        cells: dict[str, list[Cell]] = {one.name: [] for one in found}
        sent = 0
        for pair in range(-1, args.pairs):  # the first is a warm-up
            ids = [next(numbers) for _ in range(args.batches)]
            rows = [batch_of(n, args.devices, start) for n in ids]
            sent += BATCH * len(ids)
            for store in found[:: 1 if pair % 2 == 0 else -1]:
                ready = [store.prepare(some, n) for n, some in zip(ids, rows, strict=True)]
                done = cell(store, ready)
                if pair >= 0:
                    cells[store.name].append(done)
                    say(f"{store.name:>16}  {BATCH * args.batches / done.s:>10,.0f} rows/s  {done.s:.2f} s")
        return {
            "rows": BATCH * args.batches, "sent": sent, "load": os.getloadavg()[0],
            "stores": {
                one.name: _judged(one, cells[one.name], args, start, sent, next(numbers)) for one in found
            },
        }  # fmt: skip


def _judged(
    store: Store, cells: Sequence[Cell], args: argparse.Namespace, start: datetime, sent: int, number: int
) -> dict[str, Any]:
    rows = BATCH * args.batches
    stored, size = store.count(), store.size()
    again = store.prepare(batch_of(0, args.devices, start), 0)
    store.write(again)
    doubled = store.count() - stored
    last = store.prepare(batch_of(number, args.devices, start), number)
    store.write(last)
    store.crash()
    gone = stored + doubled + BATCH - store.count()
    return {
        "rows_per_s": median(rows / one.s for one in cells),
        "server_us": median(one.server_s for one in cells) / rows * 1e6,
        "client_us": median(one.client_s for one in cells) / rows * 1e6,
        "bytes": size / stored if stored else None,
        "stored": stored, "sent": sent, "twice": doubled, "gone": gone,
        "cells": [one.s for one in cells],
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """What was measured, as text; ratios are to ours."""
    ours = found["stores"]["ours"]
    lines = [
        f"{found['rows']:,} rows a cell, {BATCH:,} a batch, medians; load average {found['load']:.1f}",
        f"{'':16} {'rows/s':>10} {'of ours':>8} {'us/row':>7} {'client':>7} {'B/row':>7}  "
        f"{'stored of sent':>24}  {'sent twice':>12}  {'kill -9':>10}",
    ]
    for name, one in found["stores"].items():
        lines.append(
            f"{name:16} {one['rows_per_s']:>10,.0f} {one['rows_per_s'] / ours['rows_per_s']:>8.2f}"
            f" {one['server_us']:>7.2f} {one['client_us']:>7.2f} {one['bytes'] or 0:>7.1f}"
            f"  {one['stored']:>11,} of {one['sent']:>10,}  {one['twice']:>6,} added"
            f"  {one['gone']:>5,} gone"
        )
    lines += [
        f"sent twice: windows that a batch of {BATCH:,} added when it came again; a redelivery must add 0.",
        "kill -9: windows that were answered for, right before it, and are gone after a restart.",
        "ours also counts what was new, feeds four rollups from it in the same transaction, and is answered",
        "after COMMIT; the peers keep points: InfluxDB overwrites an equal one without saying so,",
        "VictoriaMetrics keeps both unless told to thin out, and answers before anything is on disk.",
    ]
    return "\n".join(lines)


def main() -> int:
    """0 when every store has what was sent, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batches", type=int, default=40, help="batches of 5,000 a cell")
    parser.add_argument("--pairs", type=int, default=5, help="cells of each store")
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        found = run(args, Path(folder), lambda line: print(line, flush=True))
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0 if all(one["stored"] == one["sent"] for one in found["stores"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
