"""Password and ACL files: the hash format, what a change keeps, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.mqtt import broker_files as files

HASH_A, HASH_B = (files.hash_secret(secret) for secret in ("a", "b"))


def test_a_hash_equals_the_one_mosquitto_made() -> None:
    # `mosquitto_passwd -b` 2.0.11 wrote this line for the password `a`.
    made = "$7$101$RBhbEauE5+5M+l6t$" + (
        "nsNALJPqYNuBzw7XHjBd+smp4gS1HxAR6Q9F6Oux03+Ph1HiALDuLY0VkgKN3M11Ny6JQSbYrN7wTirfk7xaEA=="
    )
    assert files.is_secret_of("a", made)
    assert not files.is_secret_of("b", made)
    assert not files.is_secret_of("a", made[:-4])


def test_two_hashes_of_one_secret_differ() -> None:
    assert files.hash_secret("s") != files.hash_secret("s")
    assert files.hash_secret("s", salt=b"x" * 12) == files.hash_secret("s", salt=b"x" * 12)


def test_sync_replaces_devices_and_keeps_the_backend(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    files.write_passwords(path, {"svc.web-0": "w", "dev-old": "o"})
    backend = files.read_passwords(path)["svc.web-0"]
    assert files.sync(path, {"dev-a": HASH_A, "dev-b": HASH_B})
    assert files.read_passwords(path) == {"svc.web-0": backend, "dev-a": HASH_A, "dev-b": HASH_B}
    written_at_ns = path.stat().st_mtime_ns
    assert not files.sync(path, {"dev-b": HASH_B, "dev-a": HASH_A})
    assert path.stat().st_mtime_ns == written_at_ns


def test_change_adds_and_removes_single_lines(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    assert files.change(path, add={"dev-a": HASH_A, "dev-b": HASH_B})
    assert files.change(path, remove=["dev-a", "dev-unknown"])
    assert files.read_passwords(path) == {"dev-b": HASH_B}
    assert not files.change(path, remove=["dev-a"])
    assert path.stat().st_mode & 0o777 == 0o600


NAMES_NO_DEVICE_HAS = ["", "Dev", "a:b", "a\nb", "a" * 33, "-a", "svc.web-0", "svc:web", "a/b", "+", "#"]


@pytest.mark.parametrize("name", NAMES_NO_DEVICE_HAS)
def test_a_name_no_device_can_have_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "passwords"
    files.change(path, add={"dev-a": HASH_A})
    before = path.read_bytes()
    with pytest.raises(files.BrokerFilesError) as caught:
        files.change(path, add={name: HASH_B})
    assert caught.value.code == "name_bad"
    assert path.read_bytes() == before


@pytest.mark.parametrize("hashed", ["", "plain", HASH_A + "\ndev-c:" + HASH_B, HASH_A.replace("$7$", "$6$")])
def test_a_hash_in_another_form_is_refused(tmp_path: Path, hashed: str) -> None:
    with pytest.raises(files.BrokerFilesError) as caught:
        files.change(tmp_path / "passwords", add={"dev-a": hashed})
    assert caught.value.code == "hash_bad"


def test_a_kept_backend_hash_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    assert files.sync_services(path, {"svc.web-0": "one", "svc.web-1": "two"})
    before = files.read_passwords(path)
    assert not files.sync_services(path, {"svc.web-0": "one", "svc.web-1": "two"})
    assert files.sync_services(path, {"svc.web-0": "one", "svc.web-1": "changed"})
    after = files.read_passwords(path)
    assert after["svc.web-0"] == before["svc.web-0"]
    assert files.is_secret_of("changed", after["svc.web-1"])


def test_reload_reaches_no_process_that_is_not_a_broker(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert not files.reload_broker(pid_file)
    pid_file.write_text("not a number")
    assert not files.reload_broker(pid_file)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        pid_file.write_text(str(bystander.pid))
        assert not files.reload_broker(pid_file)  # SIGHUP would have ended it
        assert bystander.poll() is None
        bystander.kill()


def test_no_two_holders_share_a_name_and_a_name_comes_back(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"svc.web-0": "zero", "svc.web-1": "one", "svc.beat-0": "beat"}))
    first, second = files.claim_user(users, "web"), files.claim_user(users, "web")
    held = {first.name: first.secret, second.name: second.secret}
    assert held == {"svc.web-0": "zero", "svc.web-1": "one"}
    with pytest.raises(files.BrokerFilesError) as caught:
        files.claim_user(users, "web")
    assert caught.value.code == "no_free_user"
    first.release()
    again = files.claim_user(users, "web")
    assert again.name == first.name
    again.release()
    second.release()


def test_a_name_is_free_again_when_its_process_was_killed(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"svc.web-0": "zero"}))
    program = (
        "import sys, pathlib; from fleet.mqtt.broker_files import claim_user\n"
        "held = claim_user(pathlib.Path(sys.argv[1]), 'web'); print(held.name, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(users)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "svc.web-0"
        with pytest.raises(files.BrokerFilesError):
            files.claim_user(users, "web")
        other.kill()
        other.wait()
    files.claim_user(users, "web").release()


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_damaged_users_file_is_named(tmp_path: Path, content: str | None) -> None:
    users = tmp_path / "users.json"
    if content is not None:
        users.write_text(content)
    with pytest.raises(files.BrokerFilesError) as caught:
        files.claim_user(users, "web")
    assert caught.value.code == "users_missing"
