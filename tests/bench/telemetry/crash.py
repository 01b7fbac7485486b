"""Kill one part of ingest while telemetry streams, and count: rows = rollup = sent, nothing twice.

    python -m tests.bench.telemetry.crash --victim gateway|database|broker|outage|disk
        [--messages 4000] [--kills 3] [--devices 200] [--reader lean] [--deadline 240] [--outage 45]
        [--most-mib 300]

gateway: kill -9 and a successor at once; every other time it kills itself, after a commit and before its
acknowledgement, for a kill from outside meets that moment by luck alone (none in eight). database: kill -9 of
the gateway's PostgreSQL process, upon which the server ends every session and recovers from its log. broker:
kill -9; its supervisor starts it again, and each device sends its last two acknowledged batches again beside
what was not acknowledged, as gap repair would have it: a broker that is killed may forget what it
acknowledged last. outage: PostgreSQL is stopped for --outage seconds, once; the gateway leaves the broker,
keeps its batch, and has to have less than --most-mib of memory in the end. disk: the file system of
PostgreSQL is filled to its last block, stays full for --outage seconds and is freed again, --kills times;
root alone can mount it (exit 77 where that is not allowed). Exit 0 only with exact counts and, for gateway
and broker, duplicates seen.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from fleet.gateway.source import READERS
from fleet.stack import postgres
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import LOOPBACK, free_port
from tests.bench.telemetry import disk, programs
from tests.bench.telemetry.cells import Load, options_of, rollup_windows, rss_mib, stored_windows
from tests.bench.telemetry.installation import Installation, installed
from tests.stack.services import wait_until

BOOT: Final = 7
RING: Final = {"broker": 2}
DYING_AT: Final = 1
VICTIMS: Final = ("gateway", "database", "broker", "outage", "disk")
DISK_MIB: Final = 256
_DUPLICATES: Final = re.compile(
    r'^fleet_gateway_windows_total\{result="duplicate"\} ([0-9.e+]+)$', re.MULTILINE
)


class Gateway:
    """`manage.py gateway` that can be killed and started again; counts duplicates over all its lives."""

    def __init__(self, there: Installation, reader: str) -> None:
        self._there, self._reader, self._earlier, self._last = there, reader, 0, 0
        self._log = there.run.logs / "gateway.log"
        self._start()

    def _start(self, *, is_dying: bool = False) -> None:
        self._port = free_port()
        program = ["-m", "tests.gateway.dying", str(DYING_AT)] if is_dying else ["manage.py", "gateway"]
        options = ["--reader", self._reader, "--metrics-port", str(self._port)]
        command = [sys.executable, *program, *options]
        with self._log.open("wb") as out:
            environment = {**os.environ, **self._there.environment}
            self._child = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=PROJECT_ROOT)
        if is_dying:
            self._child.wait(timeout=120)
            if self._child.returncode != -signal.SIGKILL:
                raise RuntimeError(f"the gateway ended: {self._log.read_text()[-1000:]}")
            return
        wait_until(lambda: "is ready" in self._log.read_text(), deadline_s=60, what="the gateway to be ready")

    def duplicates(self) -> int:
        """Windows that came again and were found stored, as far as each life told before it ended."""
        with urllib.request.urlopen(f"http://{LOOPBACK}:{self._port}/metrics", timeout=10) as answer:
            found = _DUPLICATES.search(answer.read().decode())
        self._last = int(float(found[1])) if found else 0
        return self._earlier + self._last

    def kill(self, *, after_commit: bool) -> None:
        """kill -9, and a successor at once; after_commit: it dies too, before its first acknowledgement."""
        self._child.kill()
        self._child.wait(timeout=30)
        self._earlier, self._last = self._earlier + self._last, 0
        if after_commit:
            self._start(is_dying=True)
        self._start()

    def rss_mib(self) -> float:
        """Memory that it has."""
        return rss_mib(self._child.pid)

    def log(self) -> str:
        """What its present life has said."""
        return self._log.read_text()

    def end(self) -> None:
        """SIGTERM, and kill when that does not help."""
        self._child.terminate()
        try:
            self._child.wait(timeout=30)
        finally:
            self._child.kill()


def run(
    victim: str,
    load: Load,
    *,
    devices: int,
    kills: int,
    deadline_s: float,
    folder: Path,
    reader: str,
    outage_s: float,
    most_mib: float,
) -> str:
    """Stream, kill, count; returns `ok` or what is wrong, after a line of what was seen."""
    built = programs.compile_into(folder / "programs")
    small = disk.SmallDisk(RunDir(folder / "run").postgres, mib=DISK_MIB) if victim == "disk" else None
    with small or nullcontext(), installed(folder / "run", devices=devices, saving="stack") as there:
        gateway = Gateway(there, reader)
        options = {**options_of(there, load, BOOT, deadline_s), "ring": RING.get(victim, 0)}
        try:
            with programs.running(built.generator, **options) as generator:
                generator.next("up")
                generator.go()
                if victim == "outage":
                    done = _outage(there, gateway, load, outage_s)
                elif small is not None:
                    done = _fill_all(small, there, load, kills, outage_s)
                else:
                    done = _kill_all(there, gateway, victim, load, kills)
                sent = generator.next("end")
            wait_until(lambda: _stored() >= load.samples, deadline_s=deadline_s, what="every window")
            again = gateway.duplicates()
            stored, rolled_up = stored_windows(BOOT), rollup_windows()
            memory, said = gateway.rss_mib(), gateway.log()
        finally:
            gateway.end()
        log = (there.run.logs / "postgres.log").read_text()
    print(
        f"{victim}: {done} kills, sent {load.samples:,}, stored {stored:,}, in the rollup {rolled_up:,},"
        f" duplicates {again:,}, reconnects {sent['reconnects']}, messages sent again {sent['again']},"
        f" the gateway has {memory:.0f} MiB"
    )
    if not stored == rolled_up == load.samples:
        return "the counts differ"
    if victim != "outage" and done < kills:
        return "the stream ended before the kills"
    if victim == "disk" and (full(log) < done or "No space left" not in said):
        return "PostgreSQL had space left"
    if victim == "database" and crashes(log) < done:
        return "PostgreSQL was not killed"
    if victim == "outage":
        if memory > most_mib:
            return "the gateway has taken too much memory"
        return "ok" if "leaves the broker" in said else "the gateway did not leave the broker"
    if victim not in ("database", "disk") and not again:
        return "no duplicate was seen: the kills proved nothing"
    return "ok"


def _outage(there: Installation, gateway: Gateway, load: Load, outage_s: float) -> int:
    """Stop PostgreSQL while it streams, and start it again; returns how often: once."""
    wait_until(lambda: _stored() >= load.samples // 10, deadline_s=120, what="the first windows")
    port = int(there.environment["DATABASE_URL"].rpartition(":")[2].partition("/")[0])
    there.supervisor.stop_one("postgres")
    wait_until(lambda: "database_unavailable" in gateway.log(), deadline_s=60, what="the gateway to notice")
    time.sleep(outage_s)
    there.supervisor.start(postgres.spec(there.run, port))
    return 1


def _fill_all(small: disk.SmallDisk, there: Installation, load: Load, times: int, full_s: float) -> int:
    """Fill PostgreSQL's file system while it streams, and free it; returns how often."""
    log = there.run.logs / "postgres.log"
    done, step = 0, load.samples // (times + 2)
    while done < times:
        goal = _stored() + step
        if goal >= load.samples:
            break
        wait_until(lambda goal=goal: _stored() >= goal, deadline_s=120, what="more windows")  # type: ignore[misc]
        before = full(log.read_text())

        def is_full(before: int = before) -> bool:
            small.fill()  # what PostgreSQL gave back since, too
            return full(log.read_text()) > before

        try:
            wait_until(is_full, deadline_s=120, what="PostgreSQL to find no space")
            until_s = time.monotonic() + full_s
            while time.monotonic() < until_s:
                small.fill()
                time.sleep(0.05)
        finally:
            small.free()
        done += 1
    return done


def full(log: str) -> int:
    """How often PostgreSQL found no space, by its log."""
    return log.count("No space left on device")


def crashes(log: str) -> int:
    """How often a process of PostgreSQL was killed, by its log."""
    return log.count("was terminated by signal 9")


def _kill_all(there: Installation, gateway: Gateway, victim: str, load: Load, kills: int) -> int:
    """Kill while it streams; returns how often."""
    done = 0
    step = load.samples // (kills + 2)
    while done < kills:
        goal = _stored() + step
        if goal >= load.samples:
            break
        wait_until(lambda goal=goal: _stored() >= goal, deadline_s=120, what="more windows")  # type: ignore[misc]
        if victim == "gateway":
            gateway.duplicates()
            gateway.kill(after_commit=done + 1 < kills)
            done += done + 1 < kills  # it died twice
        elif victim == "broker":
            before = there.broker_pid
            os.kill(before, signal.SIGKILL)
            wait_until(lambda before=before: there.broker_pid != before, deadline_s=60)  # type: ignore[misc]
        else:
            os.kill(_session_of_the_gateway(), signal.SIGKILL)
        done += 1
    return done


def _stored() -> int:
    """Windows in the rollup; the number before while PostgreSQL recovers."""
    from django.db import Error, connection

    try:
        return rollup_windows()
    except Error:
        connection.close()
        return 0


def _session_of_the_gateway() -> int:
    """Process of PostgreSQL that serves it; waits until the gateway has come back from the kill before."""
    found: list[int] = []

    def look() -> bool:
        found[:] = _sessions()
        return bool(found)

    wait_until(look, deadline_s=60, what="a session of the gateway")
    return found[0]


def _sessions() -> list[int]:
    from django.db import Error, connection

    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
                " ORDER BY (query ILIKE '%%tele_%%') DESC, state_change DESC"
            )
            return [int(pid) for (pid,) in cursor.fetchall()]
    except Error:
        connection.close()
        return []


def main() -> int:
    """Command line entry. 0: exact counts."""
    options = argparse.ArgumentParser(prog="python -m tests.bench.telemetry.crash", description=__doc__)
    options.add_argument("--victim", choices=VICTIMS, required=True)
    options.add_argument("--messages", type=int, default=4000)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument("--devices", type=int, default=200)
    options.add_argument("--reader", choices=READERS, default=READERS[0])
    options.add_argument("--deadline", type=float, default=240.0, help="seconds")
    options.add_argument("--outage", type=float, default=45.0, help="seconds without PostgreSQL, or space")
    options.add_argument("--most-mib", type=float, default=300.0, help="memory of the gateway after it")
    args = options.parse_args()
    if args.victim == "disk":
        disk.enter_namespace("tests.bench.telemetry.crash")
    if args.victim == "outage":
        args.messages = max(args.messages, int(400 * (args.outage + 20)))
    load = Load(args.messages, records=10, rate=400)
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        verdict = run(
            args.victim,
            load,
            devices=args.devices,
            kills=args.kills,
            deadline_s=args.deadline,
            folder=Path(folder),
            reader=args.reader,
            outage_s=args.outage,
            most_mib=args.most_mib,
        )
    print("verdict:", verdict)
    return 0 if verdict == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
