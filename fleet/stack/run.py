"""The whole stack of one run folder: three servers, the product's own processes, and the file that says where
they are.

Order: lock, certificates, ports, servers, `stack.env`, migrations, first set-up, processes. Every step may be
repeated: a second run finds what the first one made. `fleet.settings` reads `stack.env` as defaults, so any
`manage.py` command finds a running stack.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FrameType

from fleet.stack import mosquitto, outside, postgres, product, redis
from fleet.stack.children import ChildSpec
from fleet.stack.errors import StackError
from fleet.stack.paths import PROJECT_ROOT, RunDir, RunLock, default_run_dir, read_env, write_env
from fleet.stack.ports import LOOPBACK, PortBook
from fleet.stack.processes import Supervisor
from fleet.stack.product import MANAGE
from fleet.stack.tls import TlsFiles, ensure_tls

MIGRATE_DEADLINE_S = 300.0
OUTSIDE_DEADLINE_S = 30.0


@dataclass(frozen=True)
class StackInfo:
    """A started stack: where people and devices reach it, and the environment its processes run in."""

    run: RunDir
    console_url: str
    web_url: str
    env: Mapping[str, str]


class Stack:
    """The private stack. `with Stack() as stack: stack.start()` leaves nothing running behind."""

    def __init__(
        self,
        run: RunDir | None = None,
        *,
        say: Callable[[str], None] = print,
        console_port: int | None = None,
        has_plain_mqtt: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """run: the run folder (default: `FLEET_RUN_DIR`, else `.run`). console_port: wanted port of the
        console.

        has_plain_mqtt: the broker listens without TLS too, on loopback at `plain_mqtt_port`; only tests with
        emulated devices ask for that.

        environ: a `DATABASE_URL` or `REDIS_URL` in it is used in place of a private server, unless it is only
        what an earlier stack wrote into `stack.env`. `FLEET_BROKER_SAVES`: when the broker's store goes to
        disk (`mosquitto.saving_lines`).
        """
        self.run = run or default_run_dir(environ)
        self._say = say
        self._console_port = console_port
        self._has_plain_mqtt = has_plain_mqtt
        self.plain_mqtt_port: int | None = None
        self._lock = RunLock(self.run)
        self._ports = PortBook(self.run, say=say)
        written = read_env(self.run.env_file)
        self.given = {
            name: environ[name]
            for name in ("DATABASE_URL", "REDIS_URL")
            if environ.get(name) and environ[name] != written.get(name)
        }
        self._broker_saves = environ.get("FLEET_BROKER_SAVES") or mosquitto.EACH_CHANGE
        self.supervisor = Supervisor(self.run.logs, say=say)
        self.env: dict[str, str] = {}
        self._tls: TlsFiles | None = None

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> StackInfo:
        """Start everything and return once it answers.

        Raises StackError: `locked`, `port_taken`, `binary_missing`, `identity`, `state`, `unreachable`, or a
        ChildFailed (`child_failed`, `not_ready`) that carries the last log lines.
        """
        self.start_services()
        self.prepare()
        return self.start_processes()

    def start_services(self) -> Mapping[str, str]:
        """Start PostgreSQL, Redis and Mosquitto and write `stack.env`.

        Returns its values. Raises as `start`.
        """
        self.run.ensure()
        self._lock.acquire()
        started_s = time.monotonic()
        tls = self._tls = ensure_tls(self.run)
        specs: list[ChildSpec] = []
        values: dict[str, str] = {}
        if "DATABASE_URL" in self.given:
            check = partial(outside.check_database, self.given["DATABASE_URL"])
            outside.wait_for(check, deadline_s=OUTSIDE_DEADLINE_S, say=self._say)
        else:
            database_port = self._ports.claim("postgres")
            values["DATABASE_URL"] = postgres.url(self.run, database_port)
            specs.append(postgres.spec(self.run, database_port))
        if "REDIS_URL" in self.given:
            check = partial(outside.check_redis, self.given["REDIS_URL"])
            outside.wait_for(check, deadline_s=OUTSIDE_DEADLINE_S, say=self._say)
        else:
            redis_port = self._ports.claim("redis")
            values["REDIS_URL"] = redis.url(self.run, redis_port)
            specs.append(redis.spec(self.run, redis_port))
        mqtt_port = self._ports.claim("mosquitto")
        if self._has_plain_mqtt:
            self.plain_mqtt_port = self._ports.claim("mosquitto-plain")
        saves = self._broker_saves
        specs.append(mosquitto.spec(self.run, mqtt_port, tls, plain_port=self.plain_mqtt_port, saves=saves))
        values |= self._own_values(tls, mqtt_port)
        self.supervisor.start(*specs)
        if "DATABASE_URL" not in self.given:
            postgres.ensure_database(self.run, database_port)
        write_env(self.run.env_file, values)
        self.env = values | self.given
        self._say(f"{', '.join(spec.name for spec in specs)} ready ({time.monotonic() - started_s:.1f} s)")
        return self.env

    def _own_values(self, tls: TlsFiles, mqtt_port: int) -> dict[str, str]:
        """What `stack.env` says besides the two server addresses; makes the two secrets on first use."""
        console_port = self._ports.claim("console", wanted=self._console_port)
        for name in ("django", "passphrase"):
            self.run.secret(name)
        return {
            "FLEET_RUN_DIR": str(self.run.root),
            "FLEET_SECRET_KEY_FILE": str(self.run.secret_path("django")),
            "FLEET_KEY_PASSPHRASE_FILE": str(self.run.secret_path("passphrase")),
            "FLEET_MQTT_HOST": LOOPBACK,
            "FLEET_MQTT_PORT": str(mqtt_port),
            "FLEET_MQTT_CA": str(tls.ca),
            "FLEET_MQTT_USERS_FILE": str(mosquitto.users_file(self.run)),
            "FLEET_MQTT_PASSWORD_FILE": str(mosquitto.password_file(self.run)),
            "FLEET_MQTT_PID_FILE": str(mosquitto.pid_file(self.run)),
            "FLEET_WEB_URL": f"https://{LOOPBACK}:{self._ports.claim('https')}",
            "FLEET_WEB_CA": str(tls.ca),
            "FLEET_CONSOLE_URL": f"http://{LOOPBACK}:{console_port}",
        }

    def prepare(self) -> None:
        """Migrate the database and do the first set-up: keys, trust document, first administrator.

        Both change nothing the second time. Raises ChildFailed.
        """
        started_s = time.monotonic()
        migrate = ChildSpec("migrate", (*MANAGE, "migrate", "--no-input"), product.child_env(self.env))
        self.supervisor.run(migrate, deadline_s=MIGRATE_DEADLINE_S)
        self._say(f"database migrated ({time.monotonic() - started_s:.1f} s)")
        if self.manage("setup") != 0:
            raise StackError("child_failed", "manage.py setup failed: its words are above")

    def start_processes(self) -> StackInfo:
        """Start web, worker, beat and gateway, and return once each is ready. Raises as `start`."""
        started_s = time.monotonic()
        if self._tls is None:
            raise StackError("state", "start_services comes before start_processes")
        specs = product.specs(self.run, self.env, self._tls)
        self.supervisor.start(*specs)
        self._say(f"{', '.join(spec.name for spec in specs)} ready ({time.monotonic() - started_s:.1f} s)")
        return StackInfo(self.run, self.env["FLEET_CONSOLE_URL"], self.env["FLEET_WEB_URL"], dict(self.env))

    def manage(self, *arguments: str) -> int:
        """Run a `manage.py` command in the stack's environment, its output on ours. Returns its exit status.

        Raises the StackError of a child that failed for good meanwhile; the command is then ended.
        """
        environment = {**os.environ, **self.supervisor.cookie_env(), **product.child_env(self.env)}
        command = subprocess.Popen(
            (*MANAGE, *arguments),
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            self.supervisor.wait(until=lambda: command.poll() is not None)
            return command.wait(timeout=10)
        finally:
            if command.poll() is None:
                command.terminate()
                try:
                    command.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    command.kill()
                    command.wait()

    def wait(self) -> None:
        """Serve until interrupted. Raises the StackError of a child that failed for good."""
        self.supervisor.wait()

    def stop(self) -> None:
        """Stop every process and release the run folder.

        A second Ctrl-C meanwhile kills what is waited for.
        """
        with interrupts_call(lambda: self.supervisor.hurry()):
            self.supervisor.stop()
            self._lock.release()


@contextlib.contextmanager
def interrupts_call(action: Callable[[], None]) -> Iterator[None]:
    """Inside the block, SIGINT, SIGTERM and SIGHUP call `action` and nothing else.

    Changes nothing outside the main thread, the only one that may own signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_number: int, _frame: FrameType | None) -> None:
        action()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def _interrupt() -> None:
    raise KeyboardInterrupt


def ended_by_signals() -> contextlib.AbstractContextManager[None]:
    """Inside the block, SIGTERM and SIGHUP end the program as Ctrl-C does: by KeyboardInterrupt, so `with`
    cleans up.
    """
    return interrupts_call(_interrupt)
