"""The child process that reads the cold tier: one question on stdin, one answer on stdout, then it ends.

DuckDB reads files that may be large, or damaged, with a planner of its own. Here it has limits that hold
whatever it does: address space, processor time, memory of its own, one thread, and no file but those asked
for. Run as `python -m fleet.telemetry.cold_reader`; `cold_query` does. Imports neither Django nor pyarrow.

Questions: `windows` of a device; `pairs` of device and model run that are there; `count` of rows, at most so
many; `rows` of an export, which come line by line while they are read. The last line says how many those
were, so that an answer that was cut is not taken for a whole one.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, Final, TextIO

ADDRESS_BYTES: Final = 4 << 30  # DuckDB reserves much more than it touches
MEMORY: Final = "256MB"
CPU_S: Final = 20
ROWS_CPU_S: Final = 300
"""Of `rows`: some 10 us a row, which is read, written as JSON and waited for."""
FETCH: Final = 2_000
_FROM: Final = "FROM read_parquet($files) r WHERE epoch_us(ts) >= $start AND epoch_us(ts) < $end"
WINDOWS: Final = f"""
    SELECT device_id, epoch_us(ts), seq, model, version, mid, slot, n, us_mean, us_max, score, top, anom_max,
        anom_n, lab_n, lab_ok, heap_min, rssi, flags
    {_FROM} AND device_id = $device ORDER BY ts DESC, seq DESC LIMIT $limit
"""
"""Columns as `queries` reads them. Row groups are in order of devices, so most are passed over."""
_HEAD: Final = "device_id, epoch_us(ts), seq"
_RUN: Final = "model, version, mid, slot"
ROWS: Final = {
    "window": f"{_HEAD}, {_RUN}, n, us_mean, us_max, score / 1e4, top, anom_max / 1e3, anom_n, lab_n, lab_ok,"
    " heap_min * 64, rssi, flags, dt_ms, lag_s",
    "inference": f"{_HEAD}, device_id || ':' || (sample >> 32) || ':' || (sample & 4294967295), {_RUN}, top,"
    " score / 1e4, margin / 1e4, anom / 1e3, us, why, lag_s",
    "sketch": f"{_HEAD}, {_RUN}, duration_s, n, lag_s, body",
}
"""Columns of each kind as `export` names them, times as microseconds since 1970."""


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
    """Rows of a question that is answered at once.

    asked: question, files, start and end (µs since 1970); device and limit of `windows`; limit and, as for
    `stream`, pairs of `count`.
    """
    bound = {name: asked[name] for name in ("files", "start", "end")}
    with limited(asked["files"]) as opened:
        if asked["question"] == "windows":
            statement = WINDOWS
            bound |= {"device": asked["device"], "limit": asked["limit"]}
        elif asked["question"] == "pairs":
            statement = f"SELECT DISTINCT device_id, version_id {_FROM}"
        else:
            among = _among(opened, asked)
            statement = f"SELECT count(*) FROM (SELECT 1 {_FROM}{among} LIMIT $limit)"  # noqa: S608
            bound["limit"] = asked["limit"]
        rows: list[Any] = opened.execute(statement, bound).fetchall()
        return rows


def stream(asked: dict[str, Any], out: TextIO) -> None:
    """Write the rows of an export, a list of at most FETCH to a line, and then how many they were.

    asked: as of `answer`, kind of ROWS, and pairs: of which (device, version id) alone, None for all.
    """
    bound = {name: asked[name] for name in ("files", "start", "end")}
    rows = 0
    with limited(asked["files"]) as opened:
        among = _among(opened, asked)
        opened.execute(f"SELECT {ROWS[asked['kind']]} {_FROM}{among}", bound)
        while part := opened.fetchmany(FETCH):
            rows += len(part)
            json.dump(part, out, separators=(",", ":"))
            out.write("\n")
            out.flush()
    json.dump({"rows": rows}, out)


def _among(opened: Any, asked: dict[str, Any]) -> str:
    if asked["pairs"] is None:
        return ""
    devices, versions = [one for one, _ in asked["pairs"]], [one for _, one in asked["pairs"]]
    opened.execute(
        "CREATE TEMP TABLE pairs AS SELECT unnest($devices::VARCHAR[]) AS device_id,"
        " unnest($versions::BIGINT[]) AS version_id",
        {"devices": devices, "versions": versions},
    )
    return (
        " AND EXISTS (SELECT 1 FROM pairs p WHERE p.device_id = r.device_id AND p.version_id = r.version_id)"
    )


def main() -> int:
    """0 with {"rows": ...} at the end of stdout; 1 with {"problem": text}; anything else: it was ended."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        asked = json.load(sys.stdin)
        cpu_s = ROWS_CPU_S if asked["question"] == "rows" else CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        if asked["question"] == "rows":
            stream(asked, sys.stdout)
        else:
            json.dump({"rows": answer(asked)}, sys.stdout)
    except BrokenPipeError:
        return 1  # whoever asked has gone
    except Exception as error:  # told to the parent, which decides
        json.dump(
            {"problem": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"}, sys.stdout
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
