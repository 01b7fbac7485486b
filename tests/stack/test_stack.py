"""The whole set of servers as one stack: what it writes, what a second run reuses, how Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis as redis_client

from fleet.stack import mosquitto
from fleet.stack.errors import StackError
from fleet.stack.paths import PROJECT_ROOT, RunDir, read_env
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.run import Stack
from tests.stack.services import private_postgres, wait_until

PROGRAM = (
    "import sys; from pathlib import Path\n"
    "from fleet.stack.paths import RunDir; from fleet.stack.run import Stack, ended_by_signals\n"
    "try:\n"
    "    with ended_by_signals(), Stack(RunDir(Path(sys.argv[1])), environ={}) as stack:\n"
    "        stack.start_services(); print('up', flush=True); stack.wait()\n"
    "except KeyboardInterrupt: print('ended in order')\n"
)


def running_below(folder: Path) -> list[str]:
    """Command lines of living processes that name `folder` or work in it (Redis hides its own)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            works_there = (process / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        is_worker = not line or line.startswith("postgres: ")  # a PostgreSQL child
        if (str(folder) in line or works_there) and not is_worker and int(process.name) != os.getpid():
            found.append(line)
    return found


@contextlib.contextmanager
def stack_process(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs the servers of a stack; killed at the end if it still lives."""
    command = [sys.executable, "-c", PROGRAM, str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)
    try:
        assert process.stdout is not None
        while "up" not in (line := process.stdout.readline()):
            assert line, "the stack ended before it was up"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def test_a_stack_says_where_its_servers_are_and_leaves_nothing_running(tmp_path: Path) -> None:
    run, said = RunDir(tmp_path / "run"), list[str]()
    with Stack(run, say=said.append, environ={}) as stack:
        env = stack.start_services()
        assert read_env(run.env_file) == env
        with psycopg.connect(env["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("tinyfleet",)
        assert redis_client.Redis.from_url(env["REDIS_URL"]).ping()
        users = json.loads(Path(env["FLEET_MQTT_USERS_FILE"]).read_text())
        mqtt = int(env["FLEET_MQTT_PORT"]), Path(env["FLEET_MQTT_CA"])
        assert mosquitto.accepts(*mqtt, "svc.gateway-0", users["svc.gateway-0"])
        for name in ("FLEET_SECRET_KEY_FILE", "FLEET_KEY_PASSPHRASE_FILE"):
            assert len(Path(env[name]).read_text().strip()) == 64
        wait_until(lambda: len(running_below(tmp_path)) == 3, what="three servers")
    assert running_below(tmp_path) == []
    assert said[-1].startswith("postgres, redis, mosquitto ready")


def test_a_second_run_finds_data_ports_and_secrets_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with Stack(run, say=print, environ={}) as stack:
        first = stack.start_services()
        with psycopg.connect(first["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE kept ()")
    # settings.py puts what an earlier stack wrote into the environment: not somebody else's servers
    with Stack(run, say=print, environ=first) as stack:
        assert stack.start_services() == first
        with psycopg.connect(first["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_server_of_somebody_else_is_used_and_not_written_down(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with (
        private_postgres(tmp_path / "theirs") as url,
        Stack(run, say=print, environ={"DATABASE_URL": url}) as stack,
    ):
        env = stack.start_services()
        assert env["DATABASE_URL"] == url
        assert stack.supervisor.names() == ("redis", "mosquitto")
        assert "DATABASE_URL" not in read_env(run.env_file)


def test_a_server_of_somebody_else_that_is_down_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.stack.run.OUTSIDE_DEADLINE_S", 0.5)
    said: list[str] = []
    url = f"postgresql://u:hidden@{LOOPBACK}:{free_port()}/x"
    with (
        Stack(RunDir(tmp_path / "run"), say=said.append, environ={"DATABASE_URL": url}) as stack,
        pytest.raises(StackError) as caught,
    ):
        stack.start()
    assert caught.value.code == "unreachable"
    assert "trying again" in said[0]
    assert "hidden" not in str(caught.value)


def test_a_wanted_console_port_that_is_taken_stops_before_anything_starts(
    tmp_path: Path,
) -> None:
    port = free_port()
    with socket.create_server((LOOPBACK, port)):
        stack = Stack(RunDir(tmp_path / "run"), say=print, console_port=port, environ={})
        with stack, pytest.raises(StackError, match=f"console: port {port} is taken by process") as caught:
            stack.start()
    assert caught.value.code == "port_taken"
    assert running_below(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_every_server(tmp_path: Path, number: signal.Signals) -> None:
    with stack_process(tmp_path / "run") as process:
        wait_until(lambda: len(running_below(tmp_path)) == 4, what="itself and three servers")
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
        assert process.stdout is not None
        assert "ended in order" in process.stdout.read()
    assert running_below(tmp_path) == []


def test_servers_end_when_the_stack_is_killed_and_the_folder_can_be_used_again(tmp_path: Path) -> None:
    with stack_process(tmp_path / "run") as process:
        process.kill()
        process.wait()
    wait_until(lambda: not running_below(tmp_path), what="the kernel's signals to end the servers")
    with Stack(RunDir(tmp_path / "run"), say=print, environ={}) as stack:
        stack.start_services()
