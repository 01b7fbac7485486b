"""One cell of the ingest benchmark: the same load, taken by the gateway or by the raw subscriber.

A cell is void unless the broker acknowledged what was sent and, for the gateway, PostgreSQL holds each record
once and the minute rollup has added each once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.swarm import cpu_s
from tests.bench.telemetry.installation import Installation, end_sessions, gateways
from tests.bench.telemetry.programs import Programs, running

RAW_USER: Final = "svc.test-0"
POLL_S: Final = 0.05


class VoidError(Exception):
    """A cell lost or doubled something, or did not end in time."""


@dataclass(frozen=True)
class Load:
    """What is sent. messages: of all devices; records: windows a message; rate: messages/s, 0 flat out."""

    messages: int
    records: int
    rate: float = 0.0
    window: int = 4
    dt_ms: int = 1

    @property
    def samples(self) -> int:
        """Windows sent."""
        return self.messages * self.records


@dataclass
class Cell:
    """What a cell measured. s: from the first message sent to the last one stored or acknowledged.

    send_s: until the broker had acknowledged the last one. cpu_s: CPU seconds by process, of that span.
    lag_s: most seconds that the generator was behind its pace. lag_rows: most samples that were
    acknowledged by pace and not stored yet, paced runs only. rss_mib: most memory of a gateway.
    """

    who: str
    load: Load
    s: float
    send_s: float
    cpu_s: dict[str, float]
    load_average: float
    late_s: float = 0.0
    rss_mib: float = 0.0
    timeline: list[dict[str, float]] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Samples a second."""
        return self.load.samples / self.s

    def us(self, process: str) -> float:
        """CPU microseconds a sample of one kind of process."""
        return self.cpu_s.get(process, 0.0) / self.load.samples * 1e6

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {**asdict(self), "samples": self.load.samples, "samples_per_s": round(self.per_s, 1)}


def raw(there: Installation, programs: Programs, load: Load, *, boot: int, deadline_s: float) -> Cell:
    """The raw subscriber takes it."""
    secret = there.broker.secret(RAW_USER)
    with (
        running(
            programs.acker,
            port=there.plain_port,
            user=RAW_USER,
            secret=secret,
            filter="f1/dev/+/telemetry",
            messages=load.messages,
            deadline=deadline_s,
        ) as acker,
        running(programs.generator, **options_of(there, load, boot, deadline_s)) as generator,
    ):
        acker.next("up")
        up = generator.next("up")
        before, average = {"broker": cpu_s(there.broker_pid)}, os.getloadavg()[0]
        began_s = time.monotonic()
        generator.go()
        sent = generator.next("end")
        taken = acker.next("end")
        took_s = time.monotonic() - began_s
        used = {"broker": cpu_s(there.broker_pid) - before["broker"]}
    if sent["acked"] != load.messages or taken["messages"] < load.messages:
        raise VoidError(f"{sent['acked']} acknowledged, {taken['messages']} taken of {load.messages}")
    used |= {"generator": sent["cpu_s"] - up["cpu_s"], "acker": taken["cpu_s"]}
    end_sessions([RAW_USER])
    return Cell("raw", load, took_s, sent["s"], used, average, sent["late_s"])


def gateway(
    there: Installation,
    programs: Programs,
    load: Load,
    *,
    boot: int,
    deadline_s: float,
    options: Sequence[Sequence[str]] = ((),),
    who: str = "gateway",
) -> Cell:
    """The product's gateway takes it. options: of each gateway process."""
    with (
        gateways(there, options) as pids,
        running(programs.generator, **options_of(there, load, boot, deadline_s)) as generator,
    ):
        up = generator.next("up")
        rollup = rollup_windows()
        before, average = _used(there, pids), os.getloadavg()[0]
        began_s = time.monotonic()
        generator.go()
        watch = _Watch(load, boot, pids, began_s)
        watch.until_stored(began_s + deadline_s)
        took_s = time.monotonic() - began_s
        after = _used(there, pids)
        sent = generator.next("end")
        stored, added = stored_windows(boot), rollup_windows() - rollup
    if not sent["acked"] == load.messages or not stored == added == load.samples:
        raise VoidError(f"sent {load.samples}, stored {stored}, in the rollup {added}")
    used = {name: after[name] - before[name] for name in after}
    used["generator"] = sent["cpu_s"] - up["cpu_s"]
    end_sessions([f"svc.gateway-{number}" for number in range(2 * len(options))])
    return Cell(who, load, took_s, sent["s"], used, average, sent["late_s"], watch.rss_mib, watch.timeline)


def stored_windows(boot: int) -> int:
    """Rows of this boot: each cell has one of its own."""
    return _number(
        "SELECT count(*) FROM tele_window WHERE seq >= %s AND seq < %s", boot << 32, (boot + 1) << 32
    )


class _Watch:
    """Looks at the rollup now and then; it has few rows, so looking costs the cell little."""

    def __init__(self, load: Load, boot: int, pids: Sequence[int], began_s: float) -> None:
        self._load, self._pids, self._began_s = load, pids, began_s
        self._before = rollup_windows()
        self.rss_mib = 0.0
        self.timeline: list[dict[str, float]] = []

    def until_stored(self, until_s: float) -> None:
        told_s = self._began_s
        while True:
            done, now_s = rollup_windows() - self._before, time.monotonic()
            if now_s - told_s >= 1 or done >= self._load.samples:
                told_s = now_s
                rss = sum(rss_mib(pid) for pid in self._pids)
                self.rss_mib = max(self.rss_mib, rss)
                self.timeline.append({"s": round(now_s - self._began_s, 2), "stored": done, "rss_mib": rss})
            if done >= self._load.samples:
                return
            if now_s > until_s:
                raise VoidError(f"{done} of {self._load.samples} windows are stored at the deadline")
            time.sleep(POLL_S)


def options_of(there: Installation, load: Load, boot: int, deadline_s: float) -> dict[str, Any]:
    """Options of the generator for a load."""
    # All in the past, a second at the end of which lies at most an hour: no record is refused for its time.
    t0_ms = int(time.time() * 1000) - 3_600_000
    return {
        "port": there.plain_port,
        "file": there.fleet_file,
        "messages": load.messages,
        "records": load.records,
        "rate": load.rate,
        "window": load.window,
        "dt": load.dt_ms,
        "boot": boot,
        "t0": t0_ms,
        "deadline": deadline_s,
    }


def _used(there: Installation, pids: Iterable[int]) -> dict[str, float]:
    return {
        "gateway": sum(cpu_s(pid) for pid in pids),
        "postgres": family_cpu_s(there.postgres_pid),
        "broker": cpu_s(there.broker_pid),
    }


def family_cpu_s(parent: int) -> float:
    """CPU seconds of PostgreSQL: its processes that live, and those that ended."""
    fields = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    for entry in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            total += cpu_s(int(entry))
        except FileNotFoundError:
            continue
    return total


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def rollup_windows() -> int:
    """Windows that the minute rollup has added up."""
    return _number("SELECT coalesce(sum(windows), 0) FROM tele_minute")


def _number(statement: str, *values: int) -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return int(cursor.fetchone()[0])
