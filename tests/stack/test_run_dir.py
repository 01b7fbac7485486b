"""The run folder: private files, kept secrets and ports, one stack at a time, certificates."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from fleet.stack import ports
from fleet.stack.errors import StackError
from fleet.stack.paths import PROJECT_ROOT, RunDir, RunLock, default_run_dir, read_env, write_env
from fleet.stack.ports import LOOPBACK, PortBook, free_port
from fleet.stack.run import Stack
from fleet.stack.tls import ensure_tls


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run").ensure()


def listening(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((LOOPBACK, port))
    server.listen(1)
    return server


def test_the_run_folder_is_named_by_the_environment_or_lies_in_the_project(tmp_path: Path) -> None:
    assert default_run_dir({"FLEET_RUN_DIR": str(tmp_path)}).root == tmp_path
    assert default_run_dir({}).root == PROJECT_ROOT / ".run"


def test_folders_and_secrets_are_closed_to_others(run: RunDir) -> None:
    run.secret("one")
    assert run.root.stat().st_mode & 0o777 == 0o700
    assert run.secret_path("one").stat().st_mode & 0o777 == 0o600


def test_a_secret_is_made_once(run: RunDir) -> None:
    assert run.secret("one") == run.secret("one") != run.secret("two")
    assert len(run.secret("one")) == 64


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError) as caught:
        RunDir(tmp_path / "file" / "run").ensure()
    assert caught.value.code == "state"


def test_the_environment_file_gives_back_what_was_written(run: RunDir) -> None:
    values = {"A": "x=y", "B": "postgresql://u:p@h/d?x=1#2", "C": ""}
    write_env(run.env_file, values)
    assert read_env(run.env_file) == values
    assert read_env(run.root / "missing") == {}
    with pytest.raises(StackError):
        write_env(run.env_file, {"A": "two\nlines"})


def test_a_port_is_kept_until_somebody_else_has_it(run: RunDir) -> None:
    said: list[str] = []
    port = PortBook(run, say=said.append).claim("web")
    assert PortBook(run, say=said.append).claim("web") == port
    assert said == []
    with listening(port):
        other = PortBook(run, say=said.append).claim("web")
    assert other != port
    assert f"port {port} of the last run is taken by process" in said[0]
    assert PortBook(run, say=said.append).claim("web") == other


def test_a_port_a_person_asked_for_is_not_replaced(run: RunDir) -> None:
    port = free_port()
    with listening(port), pytest.raises(StackError) as caught:
        PortBook(run, say=print).claim("console", wanted=port)
    assert caught.value.code == "port_taken"
    assert f"console: port {port} is taken by process" in str(caught.value)
    assert PortBook(run, say=print).claim("console", wanted=port) == port


def test_the_holder_of_a_port_is_named() -> None:
    port = free_port()
    assert ports.holder_of(port) == "another process"
    program = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen()\n"
        "print('on', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert f"process {other.pid} (" in ports.holder_of(port)
        other.kill()


def test_a_damaged_port_file_is_named(run: RunDir) -> None:
    (run.root / "ports.json").write_text("[1]")
    with pytest.raises(StackError) as caught:
        PortBook(run, say=print).claim("web")
    assert caught.value.code == "state"


def test_two_stacks_do_not_share_a_run_folder(run: RunDir) -> None:
    first, second = RunLock(run), RunLock(run)
    first.acquire()
    with pytest.raises(StackError) as caught, Stack(run, say=print, environ={}) as stack:
        stack.start_services()
    assert caught.value.code == "locked"
    assert "another stack (process" in str(caught.value)
    first.release()
    second.acquire()
    second.release()


def test_a_database_url_an_earlier_stack_wrote_is_not_somebody_elses(run: RunDir) -> None:
    write_env(run.env_file, {"DATABASE_URL": "postgresql://ours", "REDIS_URL": "redis://ours"})
    environ = {"DATABASE_URL": "postgresql://ours", "REDIS_URL": "redis://theirs"}
    assert Stack(run, environ=environ).given == {"REDIS_URL": "redis://theirs"}


def test_the_authority_is_kept_and_the_server_certificate_renewed(run: RunDir) -> None:
    now = datetime.now(UTC)
    files = ensure_tls(run, now=now)
    ca, server = files.ca.read_bytes(), files.certificate.read_bytes()
    ensure_tls(run, now=now + timedelta(days=300))
    assert files.certificate.read_bytes() == server
    ensure_tls(run, now=now + timedelta(days=380))
    assert files.certificate.read_bytes() != server
    assert files.ca.read_bytes() == ca
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))


def test_a_damaged_certificate_is_named(run: RunDir) -> None:
    ensure_tls(run).certificate.write_text("nothing")
    with pytest.raises(StackError) as caught:
        ensure_tls(run)
    assert caught.value.code == "state"


def test_the_stack_imports_no_django() -> None:
    program = (
        "import sys, fleet.stack.run, fleet.stack.product, fleet.mqtt.broker_files\n"
        "found = {name.split('.')[0] for name in sys.modules} & {'django', 'celery'}\n"
        "sys.exit(', '.join(found) or 0)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, check=True)


def test_ports_are_written_readably(run: RunDir) -> None:
    port = PortBook(run, say=print).claim("web")
    assert json.loads((run.root / "ports.json").read_text()) == {"web": port}
