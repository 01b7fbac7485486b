"""Tasks: sent after commit, never needed to remember anything, short, and found again when they got lost."""

import base64
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import transaction
from django.utils import timezone

from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import User
from fleet.celery import app
from fleet.devices.models import DeviceClass, Installation
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient
from ota import delivery, publishing, reconcile, registry, staging, tasks
from ota.choices import StagingState, VersionState
from ota.models import DesiredState, ModelVersion, Rollout, Staging
from ota.queues import enqueue

pytestmark = pytest.mark.django_db


@pytest.fixture
def queue(redis_url: str, db: None) -> Any:
    """The real queue, empty at first: `queue("inspect")` lists (task, args) of the messages waiting in it."""
    connection = redis.Redis.from_url(redis_url)
    connection.flushdb()

    def waiting(name: str) -> list[tuple[str, list[Any]]]:
        found = []
        for raw in reversed(connection.lrange(name, 0, -1)):
            message = json.loads(raw)
            arguments, _, _ = json.loads(base64.b64decode(message["body"]))
            found.append((message["headers"]["task"], arguments))
        return found

    yield waiting
    connection.flushdb()
    connection.close()


def test_every_scheduled_and_routed_task_exists_and_ends_within_a_minute() -> None:
    app.loader.import_default_modules()
    named = {entry["task"] for entry in app.conf.beat_schedule.values()} | set(app.conf.task_routes)
    ours = {name for name in named if name.startswith("ota.")}
    assert len(ours) >= 8
    assert ours <= set(app.tasks)
    assert app.conf.task_time_limit <= 60


def test_an_upload_is_inspected_after_commit_and_not_before(
    queue: Any, installation: bytes, now: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        row = registry.upload("kws", "1", b"x" * 100, actor=SYSTEM, now=now)
        assert queue("inspect") == []
    assert queue("inspect") == [("ota.inspect_version", [row.pk])]
    tasks.inspect_version(row.pk)
    row.refresh_from_db()
    assert (row.state, row.code) == (VersionState.REFUSED, "not_tflite")


def test_a_rolled_back_transaction_sends_nothing(queue: Any, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        enqueue("ota.publish_desired")
        transaction.set_rollback(True)
    assert queue("delivery") == []


def test_a_lost_queue_fails_no_request(tmp_path: Path) -> None:
    # In a process of its own, because the pool of this one is connected.
    script = "import django; django.setup(); from ota import queues; queues._send('ota.reconcile', (), None)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "FLEET_RUN_DIR": str(tmp_path),
        },
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert "task_not_sent" in done.stdout + done.stderr


def test_reconcile_finds_whatever_a_killed_worker_left(
    queue: Any, make_manifest: Any, make_device: Any, now: Any, django_capture_on_commit_callbacks: Any
) -> None:
    assert set(reconcile.reconcile(now=now).values()) == {0}, "nothing to do, nothing sent"
    killed = registry.upload("kws", "killed", b"x" * 100, actor=SYSTEM, now=now)
    ModelVersion.objects.filter(pk=killed.pk).update(state=VersionState.INSPECTING)
    manifest = make_manifest()
    staging.request(manifest)
    Staging.objects.update(state=StagingState.STAGING, published=1, lease_until=now)
    delivery.set_config([make_device("left-1").pk], {1: 60}, now=now)
    later = now + staging.LEASE
    with django_capture_on_commit_callbacks(execute=True):
        found = reconcile.reconcile(now=later)
    assert found == {
        "inspect": 1,
        "stage": 1,
        "signed_anew": 0,
        "trusted_anew": 0,
        "publish": 1,
        "windows": 0,
        "operations": 0,
    }
    assert queue("inspect") == [("ota.inspect_version", [killed.pk])]
    assert queue("staging") == [("ota.stage_manifest", [manifest.pk])]
    assert queue("delivery") == [("ota.publish_desired", [])]


def test_the_tasks_stage_publish_and_repair(
    broker: Any, make_manifest: Any, make_device: Any, now: Any
) -> None:
    manifest = make_manifest()
    staging.request(manifest)
    tasks.stage_manifest(manifest.pk)
    assert Staging.objects.get(manifest=manifest).state == StagingState.STAGED
    device = make_device("task-1")
    delivery.set_config([device.pk], {1: 60}, now=now)
    tasks.publish_desired()
    row = DesiredState.objects.get(pk=device.pk)
    assert row.published_counter == row.counter
    tasks.ensure_staged()
    tasks.collect_chunks()
    with BackendClient("test").connect() as client:
        held = client.read_retained(topics.model_filter(manifest.mid), expect=None, timeout_s=10)
    assert len(held) == manifest.chunks + 2


def test_publishing_takes_as_many_batches_as_it_needs(
    broker: Any, make_device: Any, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = publishing.publish_pending
    monkeypatch.setattr(publishing, "publish_pending", lambda **given: real(2, **given))
    names = [make_device(f"many-{n}").pk for n in range(5)]
    delivery.set_config(names, {1: 60}, now=now)
    assert reconcile.publish_desired() == 5
    assert not publishing.is_pending()


def test_a_broker_that_is_away_puts_tasks_off_without_an_error(
    broker: Any,
    make_manifest: Any,
    make_device: Any,
    now: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(staging, "CONNECT_S", 0.5)
    monkeypatch.setattr(publishing, "CONNECT_S", 0.5)
    manifest = make_manifest()
    staging.request(manifest)
    delivery.set_config([make_device("away-1").pk], {1: 60}, now=now)
    settings.MQTT = {**settings.MQTT, "port": 1}
    tasks.stage_manifest(manifest.pk)
    tasks.publish_desired()
    tasks.ensure_staged()
    row = Staging.objects.get(manifest=manifest)
    assert "broker_unreachable" in row.error
    assert publishing.is_pending()
    assert staging.waiting(now=timezone.now() + staging.BACKOFF) == [manifest.pk]


def test_ticks_are_sent_for_rollouts_that_need_them(queue: Any, make_manifest: Any, now: Any) -> None:
    manifest = make_manifest()
    common = {"manifest": manifest, "plan": {}, "salt": b"", "created_by": "dana", "created_at": now}
    running = Rollout.objects.create(name="a", state="running", **common)
    Rollout.objects.create(name="b", state="completed", **common)
    tasks.tick_rollouts()
    assert queue("rollouts") == [("ota.tick_rollout", [str(running.pk)])]


def test_setup_makes_everything_once(now: Any, settings: Any) -> None:
    settings.STATIC_ROOT = Path(settings.RUN_DIR) / "static"
    first, second = io.StringIO(), io.StringIO()
    call_command("setup", stdout=first)
    name, password = (Path(settings.RUN_DIR) / "admin.txt").read_text().splitlines()
    assert stat.S_IMODE((Path(settings.RUN_DIR) / "admin.txt").stat().st_mode) == 0o600
    assert User.objects.get(username=name).check_password(password)
    assert password in first.getvalue()
    assert Installation.objects.count() == 1
    assert DeviceClass.objects.filter(name__in=["host-a", "host-b"]).count() == 2
    identity = bytes(Installation.objects.get().installation_id)
    call_command("setup", stdout=second)
    assert password not in second.getvalue()
    assert bytes(Installation.objects.get().installation_id) == identity
    assert User.objects.get(username=name).check_password(password)


def test_setup_without_a_passphrase_says_how_to_give_one(settings: Any) -> None:
    settings.KEY_PASSPHRASE = ""
    with pytest.raises(CommandError, match=r"(?s)passphrase_missing.*FLEET_KEY_PASSPHRASE_FILE"):
        call_command("setup", stdout=io.StringIO())
    assert not User.objects.exists()
