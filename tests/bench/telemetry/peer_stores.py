"""Where the benchmark of peers keeps windows: our storage stage, InfluxDB 1.x and VictoriaMetrics."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from fleet.stack.ports import LOOPBACK, free_port
from tests.bench.swarm import cpu_s
from tests.bench.telemetry.cells import family_cpu_s
from tests.stack.services import wait_until

BATCH: Final = 5_000
WINDOWS: Final = 10  # of a device in a batch
STEP: Final = timedelta(seconds=10)
FIELDS: Final = ("n", "us_mean", "us_max", "score", "top", "anom_max", "anom_n", "lab_n", "lab_ok", "heap")


@dataclass(frozen=True)
class Row:
    """One window. at: its end. values: of FIELDS."""

    device: int
    at: datetime
    values: tuple[int, ...]


class Store(Protocol):
    """What keeps windows. name: in the table."""

    name: str

    def prepare(self, rows: Sequence[Row], number: int) -> Any:
        """What `write` takes; its cost is not counted."""

    def write(self, batch: Any) -> None:
        """Store a batch and wait for the answer."""

    def used_s(self) -> float:
        """CPU seconds of its server so far."""

    def count(self) -> int:
        """Windows it has."""

    def size(self) -> int:
        """Bytes on disk, everything written out."""

    def crash(self) -> None:
        """kill -9 its server and start it again."""


def batch_of(number: int, devices: int, start: datetime) -> list[Row]:
    """Batch `number`: ten windows each of the next devices. The same ones whoever asks."""
    rows = []
    of = BATCH // WINDOWS
    for i in range(of):
        place = number * of + i
        device, turn = place % devices, place // devices
        for w in range(WINDOWS):
            k = turn * WINDOWS + w
            noise = (place * 7919 + w * 104_729) % 1_000
            values = (50, 900 + noise, 2_000 + 3 * noise, 7_000 + 2 * noise, noise % 5, noise * 3, noise % 4,
                      20, 20 - noise % 6, 3_000 + noise)  # fmt: skip
            rows.append(Row(device, start + STEP * k, values))
    return rows


class Http:
    """A peer that takes line protocol on /write. One connection, one batch a request."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder, self._port = folder, free_port()
        self._child = self._start()
        self._client = http.client.HTTPConnection(LOOPBACK, self._port, timeout=60)

    def prepare(self, rows: Sequence[Row], number: int) -> bytes:
        lines = []
        for row in rows:
            values = ",".join(f"{name}={value}i" for name, value in zip(FIELDS, row.values, strict=True))
            ns = int(row.at.timestamp()) * 10**9
            lines.append(f"window,device=dev-{row.device:05},model=activity,version=1.0.0 {values} {ns}")
        return "\n".join(lines).encode()

    def write(self, batch: bytes) -> None:
        answer = self.ask("POST", "/write?db=bench", batch)
        assert answer[0] in (200, 204), answer

    def used_s(self) -> float:
        return cpu_s(self._child.pid)

    def size(self) -> int:
        self.flush()
        return sum(_blocks(one) for one in self._folder.rglob("*"))

    def crash(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        self._child.wait(timeout=30)
        self._client.close()
        self._child = self._start()

    def end(self) -> None:
        """Stop the server."""
        self._child.terminate()
        self._child.wait(timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """A request and its answer; a connection that went is opened anew, once."""
        try:
            self._client.request(method, path, body)
        except (OSError, http.client.HTTPException):
            self._client.close()
            self._client.request(method, path, body)
        answer = self._client.getresponse()
        return answer.status, answer.read()

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write out what is held in memory."""

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            child = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self._folder.parent)
        wait_until(self._is_up, deadline_s=120, what=f"{self.name} to answer")
        return child

    def _is_up(self) -> bool:
        probe = http.client.HTTPConnection(LOOPBACK, self._port, timeout=2)
        try:
            probe.request("GET", "/ping" if isinstance(self, Influx) else "/health")
            return probe.getresponse().status < 300
        except OSError:
            return False
        finally:
            probe.close()


def _blocks(path: Path) -> int:
    """Bytes that a file takes, which InfluxDB reserves more of than it fills; 0 when it was merged away."""
    try:
        return path.stat().st_blocks * 512 if path.is_file() else 0
    except FileNotFoundError:
        return 0


class Influx(Http):
    """InfluxDB 1.x, as its defaults are but for the seconds after which its log is written out: each write is
    synced to that log before the answer.
    """

    program = "influxd"
    package = "influxdb"

    def command(self) -> list[str]:
        config = self._folder.parent / "influx.conf"
        config.write_text(
            f'reporting-disabled = true\nbind-address = "{LOOPBACK}:{free_port()}"\n'
            "[monitor]\nstore-enabled = false\n"
            f'[meta]\ndir = "{self._folder}/meta"\n'
            f'[data]\ndir = "{self._folder}/data"\nwal-dir = "{self._folder}/wal"\n'
            'cache-snapshot-write-cold-duration = "5s"\ncompact-full-write-cold-duration = "5s"\n'
            f'[http]\nbind-address = "{LOOPBACK}:{self._port}"\nlog-enabled = false\n'
        )
        return [str(shutil.which(self.program)), "-config", str(config)]

    def flush(self) -> None:
        wait_until(self._is_compact, deadline_s=120, what="InfluxDB to write its log out")

    def _is_compact(self) -> bool:
        """Whether the log is in files of its own kind: it is, seconds after the last write."""
        return sum(one.stat().st_size for one in (self._folder / "wal").rglob("*.wal")) < BATCH

    def create(self) -> None:
        """Make its database."""
        status, said = self.ask("POST", "/query?" + urllib.parse.urlencode({"q": "CREATE DATABASE bench"}))
        assert status == 200, said

    def count(self) -> int:
        asked = urllib.parse.urlencode({"db": "bench", "q": "SELECT count(n) FROM window"})
        series = json.loads(self.ask("GET", f"/query?{asked}")[1])["results"][0].get("series", [])
        return int(series[0]["values"][0][1]) if series else 0


class Victoria(Http):
    """VictoriaMetrics, single node, as its defaults are: an answer means it is in memory."""

    program = package = "victoria-metrics"

    def command(self) -> list[str]:
        listen = f"-httpListenAddr={LOOPBACK}:{self._port}"
        return [
            str(shutil.which(self.program)), f"-storageDataPath={self._folder}", listen,
            "-retentionPeriod=12", "-search.latencyOffset=0s", "-search.disableCache",
        ]  # fmt: skip

    def flush(self) -> None:
        self.ask("GET", "/internal/force_flush")

    def count(self) -> int:
        self.flush()
        asked = urllib.parse.urlencode({"query": "sum(count_over_time(window_n[7d]))", "time": time.time()})
        found = json.loads(self.ask("GET", f"/api/v1/query?{asked}")[1])["data"]["result"]
        return int(found[0]["value"][1]) if found else 0


class Ours:
    """The product's own storage stage, in this process."""

    name = "ours"

    def __init__(self, postmaster: Callable[[], int], start: datetime) -> None:
        self._postmaster, self._start = postmaster, start

    def prepare(self, rows: Sequence[Row], number: int) -> Any:
        from fleet.mqtt.codec.names import Clock
        from fleet.mqtt.codec.telemetry import Batch, Window, encode_batch, parse_batch
        from fleet.telemetry.ingest import Delivery

        found = []
        for at in range(0, len(rows), WINDOWS):
            some = rows[at : at + WINDOWS]
            windows = tuple(
                Window(
                    seq=0, ts_ms=0, dt_ms=10_000, n=v[0], us_mean=v[1], us_max=v[2], score_e4=v[3], top=v[4],
                    anom_max_e3=v[5], anom_n=v[6], lab_n=v[7], lab_ok=v[8], heap_min_64b=v[9], rssi_dbm=-60,
                    flags=0,
                )
                for v in (row.values for row in some)
            )  # fmt: skip
            t0 = some[0].at - STEP
            first = (some[0].at - self._start) // STEP
            ms = int(t0.timestamp() * 1000)
            batch = Batch(
                1, first, ms, Clock.SNTP, 0, "activity", "1.0.0", "00" * 8, b"\1\2\3\4", windows
            )  # fmt: skip
            found.append(Delivery(f"dev-{some[0].device:05}", parse_batch(encode_batch(batch))))
        return found

    def write(self, batch: Any) -> None:
        from fleet.telemetry import ingest

        ingest.store(batch, slot=0, now=datetime.now(UTC))

    def used_s(self) -> float:
        return family_cpu_s(self._postmaster())

    def count(self) -> int:
        rows, added = self._row(
            "SELECT (SELECT count(*) FROM tele_window), (SELECT sum(windows) FROM tele_minute)"
        )
        assert rows == (added or 0), f"{rows} rows, {added} in the rollup"
        return int(rows)

    def size(self) -> int:
        """Of the windows with their indexes, and of the rollups they feed."""
        (found,) = self._row(
            "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE c.relkind = 'r' AND"
            " (c.relname LIKE 'tele\\_window\\_%' OR c.relname LIKE 'tele\\_minute\\_%'"
            " OR c.relname LIKE 'tele\\_device\\_%' OR c.relname = 'tele_boot')"
        )
        return int(found)

    def crash(self) -> None:
        from django.db import connection

        before = self._postmaster()
        connection.close()
        os.kill(before, signal.SIGKILL)
        wait_until(self._is_back, deadline_s=120, what="PostgreSQL to recover")

    def _is_back(self) -> bool:
        from django.db import Error, connection

        try:
            self._row("SELECT 1")
            return True
        except Error:
            connection.close()
            return False

    def _row(self, statement: str) -> tuple[Any, ...]:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(statement.replace("%", "%%") if "%" in statement else statement, [])
            return tuple(cursor.fetchone())


@contextmanager
def stores(folder: Path, start: datetime, say: Callable[[str], None]) -> Iterator[list[Store]]:
    """Ours, and each peer that is installed."""
    with ExitStack() as ending:
        found: list[Store] = [ending.enter_context(_ours(folder / "ours", start))]
        for kind, name in ((Influx, "InfluxDB"), (Victoria, "VictoriaMetrics")):
            if shutil.which(kind.program) is None:
                say(
                    f"{name}: not installed; apt-get install {'influxdb' if kind is Influx else kind.program}"
                )
                continue
            place = folder / kind.program
            place.mkdir(parents=True)
            peer = kind(name, place)
            ending.callback(peer.end)
            if isinstance(peer, Influx):
                peer.create()
            found.append(peer)
        yield found


@contextmanager
def _ours(folder: Path, start: datetime) -> Iterator[Store]:
    from fleet.stack import postgres
    from fleet.stack.paths import RunDir
    from fleet.stack.processes import Supervisor

    run, port = RunDir(folder).ensure(), free_port()
    with Supervisor(run.logs, say=lambda _line: None) as supervisor:
        supervisor.start(postgres.spec(run, port))
        postgres.ensure_database(run, port)
        os.environ |= {
            "DATABASE_URL": postgres.url(run, port),
            "FLEET_RUN_DIR": str(folder),
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
        }
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        pid_file = run.postgres / "data" / "postmaster.pid"
        yield Ours(lambda: int(pid_file.read_text().split()[0]), start)
