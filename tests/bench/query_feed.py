"""Stores so many windows a second through the product's ingest until its standard input ends.

python -m tests.bench.query_feed WINDOWS_A_SECOND DEVICES

Says `ready` after the first second; at the end one JSON line: windows stored and the rate that was reached.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import django

PER_BATCH = 10
RUN = {"mid": f"{8:016x}", "version": "8.0.0"}  # one of query_rows


def main() -> None:
    """Command line entry."""
    django.setup()
    from fleet.telemetry import ingest
    from fleet.telemetry.ingest import Delivery
    from tests.telemetry.batches import make_batch

    rate, devices = int(sys.argv[1]), int(sys.argv[2])
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read(1)
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    begun, stored, number = time.monotonic(), 0, 0
    while not over.is_set():
        now = datetime.now(UTC)
        many = max(1, rate // PER_BATCH // 10)  # a tenth of a second's
        start = now - timedelta(seconds=PER_BATCH)
        deliveries = [
            Delivery(
                f"dev-{(number + i) % devices:05}",
                make_batch(start, PER_BATCH, dt_ms=1000, boot=9, first=10 * (number + i), **RUN),
            )
            for i in range(many)
        ]
        number += many
        stored += ingest.store(deliveries, slot=1, now=now).windows
        if stored >= rate and stored - many * PER_BATCH < rate:
            print("ready", flush=True)
        over.wait(max(0.0, begun + stored / rate - time.monotonic()))
    print(json.dumps({"windows": stored, "windows_a_second": round(stored / (time.monotonic() - begun))}))


if __name__ == "__main__":
    main()
