"""`manage.py doctor` against real servers: all well, nothing there, and single things wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings

from fleet.console.management.commands.doctor import trust_finding
from fleet.stack import folders, health
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.ports import LOOPBACK, free_port
from fleet.stack.product import MANAGE
from tests.stack.services import Broker, private_mosquitto, private_postgres, private_redis

Env = dict[str, str]


def manage(env: Env, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    return subprocess.run(
        (*MANAGE, *arguments), env={**clean, **env}, capture_output=True, text=True, timeout=120, check=False
    )


def doctor(env: Env) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit status and findings by name."""
    done = manage(env, "doctor", "--json")
    assert done.stdout.startswith("["), done.stderr
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with private_mosquitto(tmp_path_factory.mktemp("doctor-broker")) as running:
        yield running


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Env]:
    """The environment of a migrated installation with keys."""
    run = RunDir(tmp_path_factory.mktemp("doctor")).ensure()
    run.secret("passphrase")
    with private_postgres(run.root) as database, private_redis(run.root) as redis:
        env = {
            "DATABASE_URL": database,
            "REDIS_URL": redis,
            "FLEET_RUN_DIR": str(run.root),
            "FLEET_SECRET_KEY": "only for this test",
            "FLEET_KEY_PASSPHRASE_FILE": str(run.secret_path("passphrase")),
            **broker.env(),
        }
        for command in (("migrate", "--no-input"), ("keys", "init")):
            done = manage(env, *command)
            assert done.returncode == 0, done.stderr
        yield env


def test_a_sound_installation_passes(installation: Env) -> None:
    status, found = doctor({**installation, "FLEET_DEBUG_JSON": "1"})
    assert [finding for finding in found.values() if finding["level"] == "fail"] == []
    assert found["debug json"]["level"] == "warn"
    assert status == 0
    for name in (
        "cold tier",
        "database",
        "connections",
        "clock",
        "migrations",
        "redis",
        "broker",
        "broker limits",
        "trust",
        "online key",
    ):
        assert found[name]["level"] == "ok", found[name]


def test_the_report_for_people_names_every_check(installation: Env) -> None:
    done = manage(installation, "doctor")
    assert done.returncode == 0
    assert "ok    migrations     all applied" in done.stdout


def test_folders_of_telemetry_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"  # wherever temporary files lie on this machine
    mounts.write_text("1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /dev/shm rw shared:3 - tmpfs tmpfs rw\n")
    assert folders.filesystem(Path("/proc")) == "proc", "by the machine's own table"
    monkeypatch.setattr(folders, "_MOUNTS", mounts)
    full = tmp_path / "a file"
    full.write_text("")
    (tmp_path / "cold").mkdir()
    served = Path(settings.STATIC_ROOT)
    for name, value, level, text in (
        ("exports", tmp_path / "cold", "ok", "GiB free"),
        ("exports", tmp_path / "later", "ok", "later, "),
        ("exports", full / "exports", "fail", "is no folder"),
        ("exports", served / "exports", "fail", "served to anybody"),
        ("cold tier", "", "ok", "off"),
        ("cold tier", tmp_path / "cold", "ok", "GiB free"),
        ("cold tier", tmp_path / "unmounted", "warn", "not there yet"),
        ("cold tier", "/dev/shm/cold", "fail", "in memory (tmpfs)"),
        ("exports", "/dev/shm/exports", "warn", "in memory (tmpfs)"),
    ):
        one = (
            folders.check_exports(Path(value), [served])
            if name == "exports"
            else next(folders.check_cold(str(value), [served]))
        )
        assert (one.name, one.level) == (name, level), one
        assert text in one.text
        assert one.fix or one.level == "ok"
    assert not (tmp_path / "later").exists()
    assert list((tmp_path / "cold").iterdir()) == []
    (tmp_path / "static").symlink_to(served)
    assert folders.check_exports(tmp_path / "static" / "x", [served]).level == "fail", "by another way"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_MOUNTS", tmp_path / "none")
    for free, level in ((10 * 2**20, "fail"), (2**30, "warn"), (2**40, "ok")):
        usage = shutil._ntuple_diskusage(2**41, 0, free)  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda _, found=usage: found)
        (one,) = folders.check_cold(str(tmp_path), [])
        assert one.level == level


def test_no_server_is_a_line_each_with_what_to_do(tmp_path: Path) -> None:
    status, found = doctor(
        {
            "DATABASE_URL": f"postgresql://somebody:hidden@{LOOPBACK}:{free_port()}/nothing",
            "REDIS_URL": f"redis://:hidden@{LOOPBACK}:{free_port()}/0",
            "FLEET_RUN_DIR": str(tmp_path / "elsewhere"),
        }
    )
    assert status == 1
    for name in ("database", "redis", "broker", "passphrase"):
        assert found[name]["level"] == "fail"
        assert found[name]["fix"]
    assert "hidden" not in json.dumps(found)
    assert not (tmp_path / "elsewhere").exists()  # looking changes nothing


def test_a_wrong_passphrase_is_found_at_the_key_it_does_not_open(installation: Env, tmp_path: Path) -> None:
    other = tmp_path / "passphrase"
    other.write_text("another passphrase altogether\n")
    other.chmod(0o644)
    status, found = doctor({**installation, "FLEET_KEY_PASSPHRASE_FILE": str(other)})
    assert status == 1
    assert found["online key"]["level"] == "fail"
    assert found["passphrase"]["level"] == "warn"
    assert "chmod 600" in found["passphrase"]["fix"]


def test_a_broker_of_another_authority_fails(installation: Env, tmp_path: Path) -> None:
    with private_mosquitto(tmp_path) as other:
        status, found = doctor({**installation, "FLEET_MQTT_PORT": str(other.port)})
    assert status == 1
    assert found["broker"]["level"] == "fail"


def test_a_missing_migration_fails(installation: Env) -> None:
    done = manage(installation, "migrate", "sessions", "zero")
    assert done.returncode == 0, done.stderr
    status, found = doctor(installation)
    assert (status, found["migrations"]["level"]) == (1, "fail")
    assert "sessions.0001_initial" in found["migrations"]["text"]
    assert manage(installation, "migrate", "--no-input").returncode == 0


def test_a_broker_without_limits_fails(broker: Broker, tmp_path: Path) -> None:
    lines = (broker.run.mosquitto / "mosquitto.conf").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("message_size_limit")]
    (tmp_path / "mosquitto.conf").write_text("\n".join(kept))
    finding = health.check_broker_limits(tmp_path / "users.json")
    assert finding.level == "fail"
    assert "message_size_limit 16384" in finding.fix


@pytest.mark.parametrize(("difference_s", "level"), [(0.0, "ok"), (0.9, "ok"), (2.0, "warn"), (31.0, "fail")])
def test_a_clock_apart_is_judged_by_how_far(difference_s: float, level: str) -> None:
    assert health.clock_finding(difference_s).level == level


@pytest.mark.parametrize(("left_days", "level"), [(700, "ok"), (30, "warn"), (-1, "fail")])
def test_a_trust_document_that_ends_is_announced(left_days: int, level: str) -> None:
    now = datetime(2026, 5, 2, tzinfo=UTC)
    assert trust_finding(1, now + timedelta(days=left_days), now=now).level == level


@pytest.mark.parametrize(("most", "level"), [(97, "ok"), (50, "ok"), (49, "warn"), (17, "warn")])
def test_a_database_that_lets_too_few_in_is_told(most: int, level: str) -> None:
    assert health.connections_finding(most).level == level


def test_packages_are_compared_with_their_pins(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("django==1.0 \\\n    --hash=sha256:00\nnot-there==1.0 ; sys_platform == 'nowhere'\n")
    assert health.check_packages(pins).level == "warn"
    pins.write_text("not-there==1.0 \\\n    --hash=sha256:00\n")
    assert health.check_packages(pins).level == "fail"
    assert health.check_packages(tmp_path / "none").level == "warn"


def test_doctor_starts_from_any_folder(installation: Env, tmp_path: Path) -> None:
    command = (sys.executable, str(PROJECT_ROOT / "manage.py"), "doctor")
    env = {**os.environ, **installation}
    assert subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False).returncode == 0
