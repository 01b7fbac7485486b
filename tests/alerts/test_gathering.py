"""What happens by the thousand is told in few messages, and each of it once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from fleet import announcing
from fleet.accounts.audit import SYSTEM
from fleet.alerts import gathering, sending, webhooks
from fleet.alerts.gathering import LISTED, MOST_KEYS, OTHERS, WAIT
from fleet.alerts.models import Delivery, GatheredFact, Webhook
from fleet.announcing import DEVICE_ENROLLED, JOB_FAILED, Fact
from fleet.devices import enrolment
from fleet.mqtt.codec.names import RefusalCode, UpdateState
from ota import timers
from ota.models import Job, Manifest
from ota.plan import Plan
from tests.alerts.test_webhooks import Receiver
from tests.alerts.test_webhooks import receiver as receiver
from tests.devices.makers import ANCHOR, request
from tests.devices.test_enrolment import installed as installed
from tests.devices.test_enrolment import token
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db
RNG = random.Random(7)


@pytest.fixture
def hook(receiver: Receiver, now: datetime) -> Webhook:
    """Asks for what is gathered."""
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    return webhooks.create("line", url=url, actor=SYSTEM, now=now, events=[JOB_FAILED, DEVICE_ENROLLED])[0]


@pytest.fixture
def world(now: datetime, make_manifest: Callable[..., Manifest]) -> World:
    return World(now, make_manifest)


def failed(world: World, count: int, code: RefusalCode = RefusalCode.DIGEST) -> Any:
    """A rollout in which so many devices have failed with this code, and one goes on."""
    devices = world.add(count + 1)
    manifest = world.manifest()
    for device in devices[:count]:
        device.faults[manifest.pk] = (UpdateState.REFUSED, code)
    rollout = world.started(manifest, FIRST_PLAN)
    for _ in range(3):
        world.tick(rollout)
        for _ in range(3):
            world.step()
    assert Job.objects.filter(state="failed").count() == count
    return rollout


def test_devices_that_fail_are_one_message_with_codes_counts_and_links(
    hook: Webhook, receiver: Receiver, world: World, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://fleet.example/"
    rollout = failed(world, 3)
    assert GatheredFact.objects.count() == 3
    assert gathering.tell_due(world.now + WAIT - timedelta(seconds=1)) == 0, "others may follow"
    later = world.now + WAIT
    assert gathering.tell_due(later) == 3
    assert gathering.tell_due(later) == 0
    assert sending.send_due(later, rng=RNG) == 1
    ((_, body),) = receiver.got
    said = json.loads(body)
    assert (said["type"], said["object"]) == ("job.failed", {"kind": "jobs", "id": str(rollout.pk)})
    data = said["data"]
    version = rollout.manifest.version
    assert data["rollout"] == {
        "id": str(rollout.pk), "name": "walk", "model": version.model_id, "version": version.version,
    }  # fmt: skip
    assert (data["count"], data["counts"], data["left_off"]) == (3, {"digest": 3}, 0)
    assert {item["device"] for item in data["items"]} == {"dev-001", "dev-002", "dev-003"}
    job = Job.objects.get(pk=data["items"][0]["job"])
    assert data["items"][0] == {
        "job": str(job.pk), "device": job.device_id, "kind": "install", "slot": 0, "attempt": 1, "wave": 1,
        "from": data["items"][0]["from"], "to": "failed", "code": "digest", "class": "delivery",
        "retry_at": job.retry_at and job.retry_at.isoformat(),
    }  # fmt: skip
    assert data["links"] == {
        "page": f"https://fleet.example/rollouts/{rollout.pk}/jobs",
        "api": f"https://fleet.example/api/v1/rollouts/{rollout.pk}/jobs",
    }


def test_a_timer_that_ends_many_jobs_asks_once_whether_anybody_wants_to_hear(world: World) -> None:
    world.add(6)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    world.step()
    world.now += timedelta(days=2)
    with CaptureQueriesContext(connection) as seen:
        assert timers.expire(rollout, Plan.parse(rollout.plan), now=world.now) == 6
    assert sum("alerts_webhook" in query["sql"] for query in seen.captured_queries) == 1
    assert not GatheredFact.objects.exists(), "nobody asks"


def test_a_batch_of_reports_without_a_failure_asks_nothing(hook: Webhook, world: World) -> None:
    world.add(2)
    rollout = world.started(world.manifest(), FIRST_PLAN)
    world.tick(rollout)
    with CaptureQueriesContext(connection) as seen:
        world.step()
    assert not [query for query in seen.captured_queries if "alerts_webhook" in query["sql"]]


def fact(n: int, now: datetime, **changes: Any) -> Fact:
    given = {"event": JOB_FAILED, "kind": "jobs", "id": "r1", "at": now, "key": f"code-{n % 2}"}
    return Fact(**(given | changes), item={"n": n}, about={"rollout": {"id": "r1"}})


def test_a_thousand_are_one_message_that_lists_a_hundred(hook: Webhook, now: datetime) -> None:
    announcing.note([fact(n, now) for n in range(1_000)])
    assert gathering.tell_due(now + WAIT) == 1_000
    row = Delivery.objects.get()
    data = row.body["data"]
    assert (data["count"], data["left_off"], len(data["items"])) == (1_000, 1_000 - LISTED, LISTED)
    assert data["counts"] == {"code-0": 500, "code-1": 500}
    assert len(json.dumps(row.body)) < 64 * 1024
    assert not GatheredFact.objects.exists()


def test_objects_are_told_apart_and_a_later_message_has_the_higher_rev(hook: Webhook, now: datetime) -> None:
    announcing.note([fact(1, now), fact(2, now, id="r2")])
    assert gathering.tell_due(now + WAIT) == 2
    announcing.note([fact(3, now + WAIT)])
    assert gathering.tell_due(now + 2 * WAIT) == 1
    first, other, second = Delivery.objects.order_by("id")
    assert {first.body["object"]["id"], other.body["object"]["id"]} == {"r1", "r2"}
    assert second.body["object"]["id"] == "r1"
    assert second.body["rev"] > first.body["rev"]


def test_names_that_devices_choose_are_counted_apart_up_to_a_bound(hook: Webhook, now: datetime) -> None:
    announcing.note([fact(n, now, key=f"v{n}") for n in range(MOST_KEYS + 5)])
    gathering.tell_due(now + WAIT)
    counts = Delivery.objects.get().body["data"]["counts"]
    assert (len(counts), counts[OTHERS]) == (MOST_KEYS + 1, 5)


def test_what_was_gathered_is_dropped_when_nobody_asks_any_more(hook: Webhook, now: datetime) -> None:
    announcing.note([fact(1, now)])
    webhooks.change(hook, actor=SYSTEM, now=now, is_enabled=False)
    gathering.tell_due(now + WAIT)
    assert (GatheredFact.objects.count(), Delivery.objects.count()) == (0, 0)


@pytest.mark.usefixtures("installed")
def test_devices_that_enrol_are_told_by_their_class(hook: Webhook, now: datetime) -> None:
    for n in (1, 2):
        enrolment.enrol(request(token(now), device_id=f"dev-{n}"), anchor=ANCHOR, now=now)
    assert gathering.tell_due(now + WAIT) == 2
    body = Delivery.objects.get().body
    assert (body["type"], body["object"]) == ("device.enrolled", {"kind": "devices", "id": "host-a"})
    assert body["data"]["class"] == "host-a"
    assert [item["device"] for item in body["data"]["items"]] == ["dev-1", "dev-2"]
    assert body["data"]["links"]["page"].endswith("/devices?class=host-a")


def test_what_is_undone_is_told_to_nobody(hook: Webhook, now: datetime) -> None:
    with transaction.atomic():
        announcing.note([fact(1, now)])
        assert GatheredFact.objects.count() == 1
        transaction.set_rollback(True)
    assert not GatheredFact.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_tell_everything_once(hook: Webhook, now: datetime) -> None:
    announcing.note([fact(n, now) for n in range(2_000)])

    def work(_: int) -> int:
        try:
            return gathering.tell_due(now + WAIT)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(work, range(2))) == 2_000
    assert sum(row.body["data"]["count"] for row in Delivery.objects.all()) == 2_000
    assert not GatheredFact.objects.exists()
