"""The child process that reads the cold tier: one question on stdin, one answer on stdout, then it ends.

DuckDB reads files that may be large, or damaged, with a planner of its own. Here it has limits that hold
whatever it does: address space, processor time, memory of its own, one thread, and no file but those asked
for. Run as `python -m fleet.telemetry.cold_reader`; `cold_query` does. Imports neither Django nor pyarrow.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, Final

ADDRESS_BYTES: Final = 4 << 30  # DuckDB reserves much more than it touches
MEMORY: Final = "256MB"
CPU_S: Final = 20
WINDOWS: Final = """
    SELECT device_id, epoch_us(ts), seq, model, version, mid, slot, n, us_mean, us_max, score, top, anom_max,
        anom_n, lab_n, lab_ok, heap_min, rssi, flags
    FROM read_parquet($files) WHERE device_id = $device AND epoch_us(ts) >= $start AND epoch_us(ts) < $end
    ORDER BY ts DESC, seq DESC LIMIT $limit
"""
"""Columns as `queries` reads them. Row groups are in order of devices, so most are passed over."""


def limited(files: list[str]) -> Any:
    """A connection that reads these files and no other, and cannot be told otherwise."""
    import duckdb

    opened = duckdb.connect(":memory:")
    opened.execute(f"SET memory_limit = '{MEMORY}'")
    opened.execute("SET threads = 1")
    opened.execute("SET allowed_paths = $files", {"files": files})
    opened.execute("SET enable_external_access = false")
    opened.execute("SET lock_configuration = true")
    return opened


def answer(asked: dict[str, Any]) -> list[Any]:
    """Rows of `WINDOWS`. asked: files, device, start and end (µs since 1970), limit."""
    with limited(asked["files"]) as opened:
        rows: list[Any] = opened.execute(WINDOWS, asked).fetchall()
        return rows


def main() -> int:
    """0 with {"rows": [...]} on stdout; 1 with {"problem": text}; anything else: it was ended."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        found: dict[str, Any] = {"rows": answer(json.load(sys.stdin))}
    except Exception as error:  # told to the parent, which decides
        found = {"problem": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"}
    json.dump(found, sys.stdout)
    return 1 if "problem" in found else 0


if __name__ == "__main__":
    sys.exit(main())
