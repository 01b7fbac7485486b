"""The five standard telemetry questions, raw rows against rollups, while ingest runs.

    python -m tests.bench.query [--rows 1000000] [--devices 2000] [--ingest 1000] [--rounds 5] [--json FILE]
                                [--plans FOLDER] [--folder FOLDER]

The short form of a million windows takes a few minutes; the goal (p95 under 50 ms) is for `--rows 10000000`,
which needs about 6 GB of disk. With --folder the database is kept there, and loaded by the first run only. A
private PostgreSQL with fsync holds 30 days of windows and a tenth as many sketches of 2,000 devices and 8
versions. `--ingest` windows a second are stored beside the questions by the product's own ingest in a process
of its own, in batches of ten. In each round every question is asked of raw rows once and of rollups twenty
times, so that both see the same load. What is timed is the functions that REST and console call (SQL and
Python), without HTTP; `raw` is the same statement over raw rows.
Printed: p50 and p95 in ms and the ratio of medians. Exit 1 when both answers of a question differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django

from fleet.stack import postgres
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import free_port
from fleet.stack.processes import Supervisor

RESULTS = Path(__file__).with_name("results")
GOAL_MS = 50.0
OFTEN = 20
Ask = Callable[[], Any]


@dataclass(frozen=True)
class Question:
    """One of the five. raw: None where raw rows are what is asked. alike: whether two answers agree."""

    name: str
    source: str
    rollup: Ask
    raw: Ask | None
    alike: Callable[[Any, Any], bool]


@contextmanager
def database(folder: Path) -> Iterator[None]:
    """A migrated private PostgreSQL, which this process's Django uses."""
    run = RunDir(folder).ensure()
    port = free_port()
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(postgres.spec(run, port))
        postgres.ensure_database(run, port)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "fleet.settings", "FLEET_RUN_DIR": str(folder), "FLEET_NO_DB_POOL": "1",
            "FLEET_KEY_PASSPHRASE": run.secret("passphrase"), "DATABASE_URL": postgres.url(run, port),
        }  # fmt: skip
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        yield
        connection.close()


def loaded(args: argparse.Namespace, folder: Path) -> tuple[datetime, dict[str, float]]:
    """Load the database unless an earlier run did; returns the end of its rows and what took how long."""
    from tests.bench import query_rows

    told, size = folder / "loaded.json", {"rows": args.rows, "devices": args.devices}
    if told.exists():
        before = json.loads(told.read_text())
        if before["size"] != size:
            raise SystemExit(f"{folder} holds {before['size']}, not {size}: name another folder")
        return datetime.fromisoformat(before["now"]), before["took"]
    now = datetime.now(UTC)
    took = query_rows.load(args.rows, args.devices, now, say=lambda line: print(line, file=sys.stderr))
    told.write_text(json.dumps({"size": size, "now": now.isoformat(), "took": took}))
    return now, took


def questions(now: datetime) -> list[Question]:
    """The five, over 30 days."""
    from fleet.telemetry import compaction, percentiles, queries, sources, statements
    from fleet.telemetry.queries import TelemetryQuery

    start = compaction.day_start(now) - timedelta(days=29)
    by_version: dict[str, Any] = {"start": start, "end": now, "step_s": 86_400, "group_by": ("version",)}
    accuracy = TelemetryQuery("accuracy", kind="proxy", agg="mean", **by_version)
    latency = TelemetryQuery("latency_us", agg="p95", **by_version)
    ids = [f"dev-{n:05}" for n in range(2000)]

    def raw_accuracy() -> Any:
        return run(*statements.statement(accuracy, sources.WINDOWS, None))

    def raw_latency() -> Any:
        return percentiles.answer(95.0, run(*percentiles.statement(latency, sources.SKETCHES, None)))

    def raw_last() -> Any:
        return run(
            "SELECT DISTINCT ON (device_id) device_id, ts, seq FROM tele_window"
            " ORDER BY device_id, ts DESC, seq DESC",
            {},
        )

    def top(exact: bool) -> Ask:
        return lambda: queries.top_anomalous(now=now, start=start, end=now, exact=exact, limit=20)

    def series() -> Any:
        return queries.device_series("dev-00007", now - timedelta(days=1), now)

    def ask(question: TelemetryQuery) -> Ask:
        return lambda: queries.query(question, now=now)

    names = (
        "accuracy over versions, 30 d by day", "latency p95 per version, 30 d by day",
        "top 20 anomalous devices, 30 d", "last value of 2,000 devices", "windows of one device, 24 h",
    )  # fmt: skip
    return [
        Question(names[0], "tele_accuracy", ask(accuracy), raw_accuracy, _alike_series),
        Question(names[1], "tele_hist", ask(latency), raw_latency, _alike_series),
        Question(names[2], "tele_device_day", top(False), top(True), lambda a, b: a.items == b.items),
        Question(names[3], "tele_device_last", lambda: queries.last_values(ids), raw_last, _alike_count),
        Question(names[4], "tele_window", series, None, _alike_count),
    ]


def _alike_count(one: Any, other: Any) -> bool:
    return len(one) == len(other)


def _alike_series(result: Any, rows: list[tuple[Any, ...]]) -> bool:
    """Points of an answer against rows (bucket, version, value, ..., n) of raw rows."""
    points = {
        (point.t, one.labels["version"]): (round(point.value, 6), point.n)
        for one in result.series
        for point in one.points
        if point.n
    }
    return points == {(row[0].astimezone(UTC), row[1]): (round(row[2], 6), row[5]) for row in rows if row[5]}


def run(statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of a statement without a time limit."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def measure(asked: list[Question], rounds: int) -> list[dict[str, Any]]:
    """Times in ms: each round asks every question of raw rows once, before or after rollups by turns."""
    times: dict[str, tuple[list[float], list[float]]] = {one.name: ([], []) for one in asked}
    for number in range(rounds):
        for one in asked:
            raw, rolled = times[one.name]
            if one.raw is not None and number % 2 == 0:
                raw.append(_ms(one.raw))
            rolled += [_ms(one.rollup) for _ in range(OFTEN)]
            if one.raw is not None and number % 2 == 1:
                raw.append(_ms(one.raw))
    return [
        {"question": one.name, "table": one.source, "raw_ms": _spread(times[one.name][0]),
         "rollup_ms": _spread(times[one.name][1])}
        for one in asked
    ]  # fmt: skip


def _ms(ask: Ask) -> float:
    begun = time.perf_counter()
    ask()
    return (time.perf_counter() - begun) * 1000


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    ranked = sorted(values)
    p95 = ranked[min(len(ranked) - 1, int(len(ranked) * 0.95))]
    return {"n": len(values), "p50": round(statistics.median(values), 2), "p95": round(p95, 2)}


def plans(asked: list[Question], folder: Path) -> None:
    """What PostgreSQL does for each question, once, as files."""
    from django.db import connection

    folder.mkdir(parents=True, exist_ok=True)
    for one in asked:
        for kind, ask in (("raw", one.raw), ("rollup", one.rollup)):
            if ask is None:
                continue
            seen: list[tuple[str, Any]] = []

            def note(execute: Any, sql: str, params: Any, many: bool, context: Any, to: Any = seen) -> Any:
                to.append((sql, params))
                return execute(sql, params, many, context)

            with connection.execute_wrapper(note):
                ask()
            text = [
                "\n".join(row[0] for row in run(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", params))
                for sql, params in seen
                if sql.lstrip(" (\n").startswith("SELECT") and "set_config" not in sql
            ]
            name = f"{one.name.split(',')[0].replace(' ', '-')}.{kind}.txt"
            (folder / name).write_text("\n\n".join(text) + "\n")


def table(report: dict[str, Any]) -> str:
    """What a person reads."""
    head = f"{'question':<40}{'table':<18}{'raw p50':>10}{'p95':>10}{'rollup p50':>12}{'p95':>9}"
    lines = [f"{head}{'raw/rollup':>12}"]
    for one in report["questions"]:
        raw, rolled = one["raw_ms"], one["rollup_ms"]
        shown = f"{raw['p50']:>10,.1f}{raw['p95']:>10,.1f}" if raw else f"{'-':>10}{'-':>10}"
        ratio = f"{raw['p50'] / rolled['p50']:,.0f}x" if raw else "-"
        late = "" if rolled["p95"] < GOAL_MS else f"  over {GOAL_MS:g} ms"
        lines.append(f"{one['question']:<40}{one['table']:<18}{shown}{rolled['p50']:>12,.1f}{rolled['p95']:>9,.1f}"
                     f"{ratio:>12}{late}")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.query", description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000, help="windows; sketches are a tenth of them")
    options.add_argument("--devices", type=int, default=2000)
    options.add_argument("--ingest", type=int, default=1000, help="windows a second stored meanwhile, 0 none")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path, default=RESULTS / "query.json")
    options.add_argument("--plans", type=Path, help="folder for the plans of PostgreSQL")
    options.add_argument("--folder", type=Path, help="keep the loaded database here, and use what is there")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="query-") as own, database(args.folder or Path(own)):
        now, took = loaded(args, args.folder or Path(own))
        asked = questions(now)
        unlike = [one.name for one in asked if one.raw is not None and not one.alike(one.rollup(), one.raw())]
        if args.plans:
            plans(asked, args.plans)
        feeder = None
        if args.ingest:
            command = [sys.executable, "-m", "tests.bench.query_feed", str(args.ingest), str(args.devices)]
            feeder = subprocess.Popen(
                command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        try:
            if feeder is not None and feeder.stdout is not None:
                feeder.stdout.readline()  # it has stored its first batch
            found = measure(asked, args.rounds)
        finally:
            if feeder is not None:
                stored = json.loads(feeder.communicate(b"end\n", timeout=60)[0] or "{}")
    report = {
        "rows": args.rows, "devices": args.devices, "questions": found, "unlike": unlike,
        "loading_s": {name: round(value, 1) for name, value in took.items()},
        "ingest": stored if args.ingest else None,
        "environment": {"cpus": os.cpu_count(), "load": [round(value, 1) for value in os.getloadavg()]},
    }  # fmt: skip
    args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    print(f"loading, s: {report['loading_s']}; beside: {report['ingest']}; {report['environment']}")
    if unlike:
        print(f"rollup and raw rows differ: {', '.join(unlike)}")
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
