"""Rollouts over 1,000 to 100,000 devices: planning, start, ticks and desired documents, against the goals.

    python -m tests.bench.rollout_scale [--devices 1000,10000,100000] [--offers 10000] [--json FILE] [--quiet]

A private PostgreSQL (with fsync, as the stack runs it), Redis and Mosquitto; one fresh database and one
worker process a size, whose wall time, CPU time and peak resident memory are measured step by step. The steps
are in `tests.bench.scale_steps`. Printed: a table with the goals of the design beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet.stack import mosquitto, postgres, redis
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import free_port
from fleet.stack.processes import Supervisor
from fleet.stack.tls import ensure_tls
from tests.bench.saving import SAVINGS, configure
from tests.stack.services import Broker

RESULTS = Path(__file__).with_name("results")
_CHILD = (
    "import json, os, sys, django; django.setup()\n"
    "from django.core.management import call_command\n"
    "from django.utils import timezone\n"
    "call_command('migrate', verbosity=0)\n"
    "from tests.bench import scale_steps\n"
    "say = lambda line: print(line, file=sys.stderr, flush=True)\n"
    "found = scale_steps.run({devices}, now=timezone.now(), offers={offers}, seed={seed}, say=say)\n"
    "print(json.dumps({{'steps': found, 'environment': scale_steps.environment()}}))\n"
)
GOALS = (
    ("preflight", "wall_s", 10.0, "s, at most"),
    ("start", "wall_s", 10.0, "s, at most"),
    ("start: carried out", "wall_s", 10.0, "s, at most"),
    ("start: carried out", "most_rows_a_transaction", 5_000, "rows a transaction, at most"),
    ("ticks: wave opens", "longest_s", 1.0, "s a tick, at most"),
    ("ticks: offers", "longest_s", 1.0, "s a tick, at most"),
    ("ticks: offers", "offers_per_minute", 1_000, "offers a minute, at least"),
    ("documents: signed and published", "per_cpu_s", 3_000, "documents a CPU second, at least"),
)


@contextmanager
def servers(folder: Path, saving: str) -> Iterator[tuple[RunDir, int, dict[str, str]]]:
    """PostgreSQL, Redis and Mosquitto of the stack; yields run folder, PostgreSQL's port and environment."""
    run = RunDir(folder).ensure()
    database_port, cache_port, broker_port, tls = free_port(), free_port(), free_port(), ensure_tls(run)
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(postgres.spec(run, database_port))
        supervisor.start(redis.spec(run, cache_port))
        spec = mosquitto.spec(run, broker_port, tls)
        configure(run, saving)
        supervisor.start(spec)
        env = Broker(run, broker_port, tls, supervisor).env() | {
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "FLEET_RUN_DIR": str(folder),
            "FLEET_KEY_PASSPHRASE": run.secret("passphrase"),
            "REDIS_URL": redis.url(run, cache_port),
            "FLEET_NO_DB_POOL": "1",
        }
        yield run, database_port, env


def measure(devices: int, args: argparse.Namespace) -> dict[str, Any]:
    """One size in servers and a process of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        servers(Path(folder), args.saving) as (run, port, env),
    ):
        postgres.ensure_database(run, port)
        code = _CHILD.format(devices=devices, offers=args.offers, seed=args.seed)
        env = {**os.environ, **env, "DATABASE_URL": postgres.url(run, port)}
        command = [sys.executable, "-c", code]
        stderr = subprocess.DEVNULL if args.quiet else None
        done = subprocess.run(
            command, env=env, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=stderr, check=True, text=True
        )
    return {"devices": devices, **json.loads(done.stdout.splitlines()[-1])}


def table(results: list[dict[str, Any]]) -> str:
    """What a person reads: a column per size."""
    sizes = [f"{result['devices']:,}" for result in results]
    lines = [_line("devices", sizes, "goal")]
    for name, key, goal, words in GOALS:
        values = [_shown(result["steps"][name][key]) for result in results]
        lines.append(_line(f"{name}: {key.replace('_', ' ')}", values, f"{goal:,g} {words}"))
    for name in ("ticks: wave opens", "ticks: offers"):
        for key in ("median_s", "median_cpu_s", "longest_cpu_s"):
            values = [_shown(result["steps"][name][key]) for result in results]
            lines.append(
                _line(f"{name}: {key.replace('_', ' ')}", values, "worker and database" * ("cpu" in key))
            )
    for name in results[0]["steps"]:
        values = [_shown(result["steps"][name]["peak_mib"]) for result in results]
        lines.append(_line(f"{name}: peak MiB", values, ""))
    documents = [name for name in results[0]["steps"] if name.startswith("documents")]
    for name in documents:
        for key in ("per_s", "per_cpu_s", "cpu_us_each"):
            values = [_shown(result["steps"][name][key]) for result in results]
            lines.append(_line(f"{name}: {key.replace('_', ' ')}", values, ""))
    lines.append(
        _line("documents: rows and the rest, cpu us each", [_rest(result) for result in results], "")
    )
    for name in documents[2:]:
        values = [f"{_ratio(result, name, documents[1]):.2f}x" for result in results]
        lines.append(_line(f"{name}, a CPU second, against both", values, ""))
    values = [f"{_ratio(result, documents[-2], documents[-1]):.2f}x" for result in results]
    lines.append(_line("published alone against by paho, a CPU second", values, ""))
    return "\n".join(lines)


def _ratio(result: dict[str, Any], name: str, other: str) -> float:
    """How many times as many documents a CPU second."""
    return float(result["steps"][name]["per_cpu_s"]) / float(result["steps"][other]["per_cpu_s"])


def _rest(result: dict[str, Any]) -> str:
    """Microseconds of CPU a document that neither signing nor publishing takes."""
    whole, *parts = (
        result["steps"][f"documents: {name}"]["cpu_us_each"]
        for name in ("signed and published", "signed alone", "published alone")
    )
    return _shown(whole - sum(parts))


def _line(name: str, values: list[str], goal: str) -> str:
    return f"{name:<64}" + "".join(f"{value:>12}" for value in values) + f"   {goal}"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.rollout_scale", description=__doc__)
    options.add_argument("--devices", default="1000,10000,100000", help="sizes, separated by commas")
    options.add_argument("--offers", type=int, default=10_000, help="devices offered to at most")
    options.add_argument("--saving", choices=SAVINGS, default="30 s", help="when the broker saves its store")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--quiet", action="store_true", help="no progress")
    options.add_argument("--json", type=Path, default=RESULTS / "rollout-scale.json")
    args = options.parse_args()
    results = []
    for size in args.devices.split(","):
        results.append(measure(int(size), args))
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
