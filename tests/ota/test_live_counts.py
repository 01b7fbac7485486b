"""Counts of a rollout that take long: a moment old for those who look, never told as newer than they are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.utils import timezone
from redis import Redis
from redis.exceptions import RedisError

from fleet import hints, recent
from fleet.accounts.audit import Actor
from ota import rollouts
from ota.models import Job, Rollout
from tests.console import rows
from tests.stack.services import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def running(transactional_db: None, settings: Any) -> Iterator[Rollout]:
    """A rollout under way whose counts take long."""
    settings.SLOW_COUNT_S = 0
    yield rows.fill(rows.present(), telemetry=False).rollouts["running"]
    with contextlib.suppress(RedisError):
        caches["default"].clear()


@pytest.fixture
def heard(running: Rollout) -> Iterator[Callable[[], list[str]]]:
    """Topics that were told since the last call."""
    client = Redis.from_url(settings.REDIS_URL)
    with client.pubsub(ignore_subscribe_messages=True) as listening:
        listening.subscribe(hints.channel(settings.REDIS_URL))
        listening.get_message(timeout=5)

        def topics() -> list[str]:
            found: list[str] = []
            while message := listening.get_message(timeout=0.05):
                found += json.loads(message["data"])["topics"]
            return found

        yield topics
    client.close()


def fail_one(rollout: Rollout) -> None:
    job = Job.objects.filter(rollout=rollout, kind="install", state="confirmed").first()
    assert job is not None
    Job.objects.filter(pk=job.pk).update(state="failed", code="flash_io")


def confirmed(told: dict[str, Any]) -> int:
    return int(told["counts"]["confirmed"])


def moment(told: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(told["as_of"])


def test_whoever_looks_within_a_moment_gets_the_same_counts_and_their_time(running: Rollout) -> None:
    now = timezone.now()
    first = rollouts.state(running, now=now)
    fail_one(running)
    again = rollouts.state(running, now=now + timedelta(seconds=recent.FRESH_S))
    assert confirmed(again) == confirmed(first)
    assert moment(again) == moment(first) == now


def test_older_counts_are_made_anew_beside_the_answer_and_the_pages_are_told(
    running: Rollout, heard: Callable[[], list[str]]
) -> None:
    now = timezone.now()
    first = rollouts.state(running, now=now)
    fail_one(running)
    later = now + timedelta(seconds=recent.FRESH_S + 1)
    assert rollouts.state(running, now=later)["as_of"] == first["as_of"]
    wait_until(lambda: hints.rollout(running.pk) in heard(), what="the hint")
    fresh = rollouts.state(running, now=later)
    assert confirmed(fresh) == confirmed(first) - 1
    assert moment(first) < moment(fresh)
    assert sum(fresh["counts"].values()) == fresh["size"]


def test_counts_that_come_out_the_same_tell_nobody(running: Rollout, heard: Callable[[], list[str]]) -> None:
    now = timezone.now()
    later = now + timedelta(seconds=recent.FRESH_S + 1)
    first = rollouts.state(running, now=now)
    rollouts.state(running, now=later)
    wait_until(lambda: rollouts.state(running, now=now)["as_of"] != first["as_of"], what="newer counts")
    assert heard() == []


def test_what_somebody_does_to_the_rollout_is_counted_at_once(running: Rollout) -> None:
    now = timezone.now()
    first = rollouts.state(running, now=now)
    fail_one(running)
    rollouts.pause(running, actor=Actor("user", "olga"), now=now, reason="a look")
    after = rollouts.state(running, now=now)
    assert confirmed(after) == confirmed(first) - 1
    assert after["state"] == "paused"


def test_what_is_counted_fast_is_counted_for_everybody(running: Rollout, settings: Any) -> None:
    settings.SLOW_COUNT_S = 3_600
    now = timezone.now()
    first = rollouts.state(running, now=now)
    fail_one(running)
    assert confirmed(rollouts.state(running, now=now)) == confirmed(first) - 1


def test_without_redis_everything_is_counted(running: Rollout, settings: Any) -> None:
    settings.CACHES = {
        "default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"},
    }
    now = timezone.now()
    first = rollouts.state(running, now=now)
    fail_one(running)
    assert confirmed(rollouts.state(running, now=now)) == confirmed(first) - 1
