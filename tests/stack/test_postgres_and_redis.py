"""The private PostgreSQL and Redis: real servers, started, stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg
import pytest
import redis as redis_client

from fleet.stack import outside, postgres, redis
from fleet.stack.errors import StackError
from fleet.stack.paths import RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.processes import Supervisor
from tests.stack.services import private_postgres, private_redis, wait_until


def count_rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def make_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n integer)")
        connection.execute("INSERT INTO kept VALUES (1)")


def test_a_restart_keeps_the_data(tmp_path: Path) -> None:
    with private_postgres(tmp_path) as url:
        make_row(url)
    with pytest.raises(StackError) as caught:
        outside.check_database(url)
    assert caught.value.code == "unreachable"
    with private_postgres(tmp_path) as url:
        assert count_rows(url) == 1


def test_a_kill_keeps_what_was_committed(tmp_path: Path) -> None:
    run, port = RunDir(tmp_path).ensure(), free_port()
    with Supervisor(run.logs, say=print) as supervisor:
        supervisor.start(postgres.spec(run, port))
        postgres.ensure_database(run, port)
        url = postgres.url(run, port)
        make_row(url)
        with psycopg.connect(url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
        killed = supervisor.pid("postgres")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: supervisor.pid("postgres") != killed, what="a restart")
        outside.wait_for(lambda: outside.check_database(url), deadline_s=30, say=print)
        assert count_rows(url) == 1


def test_a_password_is_asked_for_and_only_loopback_listens(tmp_path: Path) -> None:
    with private_postgres(tmp_path) as url:
        secret = RunDir(tmp_path).secret("postgres")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url.replace(secret, "wrong"), connect_timeout=5)
        with psycopg.connect(url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == (LOOPBACK,)
            assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)


def test_the_data_folder_is_closed_to_others(tmp_path: Path) -> None:
    with private_postgres(tmp_path):
        assert (tmp_path / "postgres" / "data").stat().st_mode & 0o777 == 0o700
        assert not (tmp_path / "postgres" / "password.new").exists()


def test_a_stale_process_id_does_not_stop_the_start(tmp_path: Path) -> None:
    with private_postgres(tmp_path) as url:
        make_row(url)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        # as after a power cut: the number now belongs to a process that is no database
        data = tmp_path / "postgres" / "data"
        (data / "postmaster.pid").write_text(f"{bystander.pid}\n{data}\n1\n5432\n\n\n")
        with private_postgres(tmp_path) as url:
            assert count_rows(url) == 1
        assert bystander.poll() is None
        bystander.kill()


def test_a_server_left_over_on_the_folder_is_stopped_first(tmp_path: Path) -> None:
    run = RunDir(tmp_path).ensure()
    argv = postgres.spec(run, free_port()).argv
    pid_file = tmp_path / "postgres" / "data" / "postmaster.pid"
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as left_over:
        wait_until(lambda: pid_file.exists() and "ready" in pid_file.read_text(), what="the first server")
        with private_postgres(tmp_path) as url:
            assert left_over.wait(timeout=10) == 0
            make_row(url)
            assert count_rows(url) == 1


def test_without_user_namespaces_root_becomes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:  # anybody else starts it as they are
        assert postgres.identity() == postgres.Identity((), None)
        return
    without_unshare = {"setpriv": shutil.which("setpriv")}.get
    postgres.identity.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "which", without_unshare)
            assert postgres.identity().owner == postgres.NOBODY  # remembered from here on
        with private_postgres(tmp_path / "closed") as url:
            make_row(url)
            assert (tmp_path / "closed" / "postgres" / "data").stat().st_uid == postgres.NOBODY
        with private_postgres(tmp_path / "closed") as url:
            assert count_rows(url) == 1
    finally:
        postgres.identity.cache_clear()
    with private_postgres(tmp_path / "closed") as url:  # as this machine would: the folder changes hands
        assert count_rows(url) == 1


def test_redis_asks_for_its_password_and_keeps_nothing(tmp_path: Path) -> None:
    with private_redis(tmp_path) as url:
        client = redis_client.Redis.from_url(url)
        client.set("key", "value")
        assert client.get("key") == b"value"
        client.close()
        with pytest.raises(StackError) as caught:
            outside.check_redis(url.replace(RunDir(tmp_path).secret("redis"), "wrong"))
        assert caught.value.code == "unreachable"
        assert "wrong" not in str(caught.value)
    with private_redis(tmp_path) as url:
        client = redis_client.Redis.from_url(url)
        assert client.get("key") is None
        client.close()


def test_redis_on_a_taken_port_says_so(tmp_path: Path) -> None:
    run, other, port = RunDir(tmp_path / "a").ensure(), RunDir(tmp_path / "b").ensure(), free_port()
    with Supervisor(run.logs, say=print) as supervisor:
        supervisor.start(redis.spec(run, port))
        with (
            Supervisor(other.logs, say=print) as second,
            pytest.raises(StackError, match="Address already in use"),
        ):
            second.start(redis.spec(other, port))


@pytest.mark.parametrize("check", [outside.check_database, outside.check_redis])
def test_a_server_that_is_not_there_is_tried_again_then_named(check: object) -> None:
    said: list[str] = []
    scheme = "redis" if check is outside.check_redis else "postgresql"
    url = f"{scheme}://somebody:hidden@{LOOPBACK}:{free_port()}/0"
    with pytest.raises(StackError) as caught:
        outside.wait_for(lambda: check(url), deadline_s=1.0, say=said.append)  # type: ignore[operator]
    assert caught.value.code == "unreachable"
    assert len(said) >= 2
    assert "hidden" not in str(caught.value) + "".join(said)
