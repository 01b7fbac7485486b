"""What happens to keys, rollouts, waves and models is told to the webhooks that ask for it: with the change,
or not at all.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from fleet.accounts.audit import SYSTEM, TICK
from fleet.alerts import sending, silences, webhooks
from fleet.alerts.models import Delivery, Webhook
from fleet.announcing import KEY_REVOKED
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import key_revocation, registry, transitions
from ota.key_revocation import RevocationError
from ota.models import Manifest, SigningKey
from tests.alerts.test_webhooks import Receiver
from tests.alerts.test_webhooks import receiver as receiver
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.test_registry import ACTIVITY, inspected, upload
from tests.ota.world import ACTOR, FIRST_PLAN, World

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("installation")]
REASON = "its laptop was stolen"


@pytest.fixture
def hook(receiver: Receiver, now: datetime) -> Webhook:
    """Asks for revoked keys; another one asks for alerts only."""
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    webhooks.create("pager", url=url, actor=SYSTEM, now=now, events=["alert.opened", "alert.resolved"])
    row, _ = webhooks.create("keys", url=url, actor=SYSTEM, now=now, events=[KEY_REVOKED])
    return row


def revoke(kid: str, now: datetime, **more: Any) -> key_revocation.Revoked:
    return key_revocation.revoke(kid, **{"reason": REASON, "actor": ACTOR, "now": now} | more)


def live_key() -> str:
    return SigningKey.objects.get(role="release", revoked_at=None).kid


def test_a_receiver_hears_which_key_is_revoked_what_follows_and_why(
    hook: Webhook, receiver: Receiver, now: datetime, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(now, make_manifest)
    world.add(3)
    manifest, kid = world.manifest(), live_key()
    Manifest.objects.filter(pk=manifest.pk).update(kids=[kid])
    rollout = world.started(manifest, FIRST_PLAN)
    silences.create(q="", until=now + timedelta(days=1), reason="quiet", actor=SYSTEM, now=now)
    done = revoke(kid, now)
    row = Delivery.objects.get()
    assert (row.webhook, row.event, row.alert, row.state) == (hook, "key.revoked", None, "pending")
    assert sending.send_due(now, rng=random.Random(7)) == 1
    ((headers, body),) = receiver.got
    assert json.loads(body) == {
        "id": headers["webhook-id"],
        "type": "key.revoked",
        "at": now.isoformat(),
        "object": {"kind": "key", "id": kid},
        "rev": 1,
        "data": {
            "kid": kid,
            "role": "release",
            "successor": done.successor,
            "trust_version": 2,
            "are_devices_told": True,
            "rollouts": [{"id": str(rollout.pk), "name": rollout.name}],
            "reason": REASON,
            "by": ACTOR.name,
        },
    }


def test_a_look_and_a_refusal_tell_nobody(hook: Webhook, now: datetime) -> None:
    revoke(live_key(), now, dry_run=True)
    kid = live_key()
    with pytest.raises(RevocationError):
        revoke(kid, now, reason=" ")
    assert not Delivery.objects.exists()
    revoke(kid, now)
    with pytest.raises(RevocationError, match="was revoked at"):
        revoke(kid, now)
    assert Delivery.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_revocation_that_is_undone_is_told_to_nobody(
    hook: Webhook, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed behind the outbox row and before the audit row."""
    kid, seen = live_key(), []

    def killed(*_: Any, **__: Any) -> None:
        seen.append(Delivery.objects.count())
        raise KeyboardInterrupt

    monkeypatch.setattr(key_revocation.audit, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        revoke(kid, now)
    assert (seen, Delivery.objects.count()) == ([1], 0)
    assert live_key() == kid


@pytest.fixture
def all_hook(receiver: Receiver, now: datetime) -> Webhook:
    """Asks for everything."""
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    return webhooks.create("all", url=url, actor=SYSTEM, now=now)[0]


def told(event: str) -> list[dict[str, Any]]:
    """Bodies of the deliveries of an event, oldest first."""
    return [row.body for row in Delivery.objects.filter(event=event).order_by("created_at", "id")]


def test_each_state_of_a_rollout_is_told_once_with_a_rising_revision(
    all_hook: Webhook, now: datetime, make_manifest: Callable[..., Manifest], settings: Any
) -> None:
    settings.PUBLIC_URL = "https://fleet.example"
    world = World(now, make_manifest)
    world.add(3)
    rollout = world.run(world.started(world.manifest(), FIRST_PLAN), until=["completed"])
    bodies = told("rollout.state_changed")
    moves = [(one["data"]["from"], one["data"]["to"]) for one in bodies]
    assert moves == [("draft", "preflight"), ("preflight", "ready"), ("ready", "running"),
                     ("running", "completed")]  # fmt: skip
    revs = [one["rev"] for one in bodies]
    assert revs == sorted(set(revs))
    assert revs[-1] == rollout.rev
    last = bodies[-1]
    assert last["object"] == {"kind": "rollout", "id": str(rollout.pk)}
    version = rollout.manifest.version
    assert last["data"] == {
        "name": "walk", "model": version.model_id, "version": version.version, "kind": "update", "slot": 0,
        "from": "running", "to": "completed", "reason": "", "evidence": None, "by": "tick",
        "links": {"page": f"https://fleet.example/rollouts/{rollout.pk}",
                  "api": f"https://fleet.example/api/v1/rollouts/{rollout.pk}"},
    }  # fmt: skip
    rollouts_by = [one["data"]["by"] for one in bodies[:3]]
    assert ACTOR.name in rollouts_by
    (verdict,) = told("wave.verdict")
    assert (verdict["object"]["id"], verdict["data"]["to"]) == (f"{rollout.pk}/1", "passed")


def test_a_halt_names_its_evidence_and_the_wave_its_verdict(
    all_hook: Webhook, now: datetime, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(now, make_manifest)
    devices = world.add(12)
    manifest = world.manifest()
    for device in devices:
        device.faults[manifest.pk] = (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH)
    rollout = world.run(world.started(manifest, FIRST_PLAN), until=["rolled_back"])
    bodies = told("rollout.state_changed")
    assert [one["data"]["to"] for one in bodies[-3:]] == ["halted", "rolling_back", "rolled_back"]
    halt = bodies[-3]["data"]
    assert (halt["evidence"], halt["by"]) == (str(rollout.halted_on_id), "gates")
    assert halt["reason"].startswith("Failed on the model: 12 of 12 devices")
    assert len(halt["reason"]) <= 500
    verdict = told("wave.verdict")[-1]
    data = verdict["data"]
    assert (data["to"], data["verdict"], data["evidence"]) == ("failed", "fail", str(rollout.halted_on_id))
    assert data["reasons"] == rollout.waves.get(n=1).reasons != []
    assert (data["wave"], data["waves"]) == (1, rollout.waves.count())
    assert data["rollout"]["id"] == str(rollout.pk)


def test_a_wave_that_stays_inconclusive_is_told_once(
    all_hook: Webhook, now: datetime, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(now, make_manifest)
    world.add(1)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    wave = rollout.waves.get()
    for _ in range(3):
        transitions.move_wave(wave, "soaking", actor=TICK, now=now)
        transitions.move_wave(wave, "evaluating", actor=TICK, now=now)
        given = {"verdict": "inconclusive", "reasons": ["soaking"]}
        transitions.move_wave(wave, "inconclusive", actor=TICK, now=now, **given)
    (one,) = told("wave.verdict")
    assert (one["data"]["verdict"], one["data"]["reasons"]) == ("inconclusive", ["soaking"])
    transitions.move_wave(wave, "overridden", actor=ACTOR, now=now, reason="seen on the bench")
    first, second = told("wave.verdict")
    assert second["rev"] > first["rev"]
    assert (second["data"]["to"], second["data"]["reason"]) == ("overridden", "seen on the bench")


def test_without_a_webhook_that_asks_a_change_costs_one_query_more(
    hook: Webhook, now: datetime, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(now, make_manifest)
    world.add(1)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    with CaptureQueriesContext(connection) as seen:
        assert transitions.move_rollout(rollout, "paused", actor=ACTOR, now=now)
    asked = [one["sql"] for one in seen.captured_queries if "alerts_webhook" in one["sql"]]
    assert len(asked) == 1
    assert not [one for one in seen.captured_queries if '"ota_manifest"' in one["sql"]]
    assert not told("rollout.state_changed")


def test_a_signed_version_is_told_with_its_manifest(all_hook: Webhook, now: datetime) -> None:
    row = inspected(upload(ACTIVITY.read_bytes(), now), now)
    registry.acknowledge(row, "host-a", reason="measured on the bench", actor=ACTOR, now=now)
    manifest = registry.release(row, actor=ACTOR, now=now)
    (body,) = told("model.signed")
    assert (body["object"], body["rev"]) == ({"kind": "version", "id": str(row.pk)}, manifest.seq)
    data = body["data"]
    assert (data["model"], data["version"], data["manifest"]) == ("activity", "1.0.0", manifest.pk)
    assert data["classes"] == ["host-a"]
    assert (data["kids"], data["by"]) == (manifest.kids, ACTOR.name)


def test_a_change_that_is_undone_is_told_to_nobody(
    all_hook: Webhook, now: datetime, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(now, make_manifest)
    world.add(1)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    before = Delivery.objects.count()
    with transaction.atomic():
        transitions.move_rollout(rollout, "paused", actor=ACTOR, now=now)
        assert Delivery.objects.count() == before + 1
        transaction.set_rollback(True)
    assert Delivery.objects.count() == before
