"""A revoked signing key is told to the webhooks that ask for it, with the revocation or not at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.alerts import sending, silences, webhooks
from fleet.alerts.models import Delivery, Webhook
from ota import key_revocation
from ota.announcing import KEY_REVOKED
from ota.key_revocation import RevocationError
from ota.models import Manifest, SigningKey
from tests.alerts.test_webhooks import Receiver
from tests.alerts.test_webhooks import receiver as receiver
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
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
