"""Live hints: after a commit, which objects changed, for whoever is looking at them (`fleet.live`).

A hint is a topic and a time, nothing more: the page or program reads the object again by the way that
checks who may. It goes to Redis and nowhere else; one that is lost loses nothing, since the objects
themselves say what changed and when (`fleet.live.topics.missed`). So no transaction writes a row for it, and
the batches that move thousands of jobs pay for one message each.

Topics: `rollout:<id>`, `rollouts`, `device:<id>`, `alerts`, `version:<number>`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from fleet import redis_calls

ROLLOUTS: Final = "rollouts"
ALERTS: Final = "alerts"


def rollout(rollout_id: object) -> str:
    """Topic of a rollout, its waves and its jobs."""
    return f"rollout:{rollout_id}"


def device(device_id: str) -> str:
    """Topic of a device, its slots and its jobs."""
    return f"device:{device_id}"


def version(number: int) -> str:
    """Topic of a model version, by its key in the database."""
    return f"version:{number}"


def changed(*topics: str) -> None:
    """Tell after the present transaction's commit, at once outside one, that these objects changed.

    Calls that follow each other in one transaction become one message. Nothing is raised and nobody waits:
    without Redis there are no hints, and pages poll.
    """
    if not topics:
        return
    connection = transaction.get_connection()
    if not connection.in_atomic_block:
        _Telling(topics)()
        return
    if connection.run_on_commit:
        savepoints, last = connection.run_on_commit[-1][:2]
        if isinstance(last, _Telling) and savepoints == set(connection.savepoint_ids):
            last.topics.update(dict.fromkeys(topics))
            return
    transaction.on_commit(_Telling(topics), robust=True)


def of_subject(kind: str, subject_id: str) -> tuple[str, ...]:
    """Topics of what an audit row is about; none for kinds that nobody can watch."""
    if kind == "rollout":
        return rollout(subject_id), ROLLOUTS
    if kind == "wave":
        return rollout(subject_id.partition("/")[0]), ROLLOUTS
    if kind in ("device", "version"):
        return (f"{kind}:{subject_id}",)
    return (ALERTS,) if kind == "alert" else ()


def channel(url: str) -> str:
    """Name of the channel; Redis has one set of them for all its databases, so it names the database."""
    return f"fleet:hints:{urlsplit(url).path.strip('/') or '0'}"


def now_us() -> int:
    """Microseconds since 1970: what orders the hints of an object."""
    return time.time_ns() // 1000


class _Telling:
    """What is told after a commit."""

    def __init__(self, topics: Iterable[str]) -> None:
        self.topics = dict.fromkeys(topics)

    def __call__(self) -> None:
        said = json.dumps({"rev": now_us(), "topics": list(self.topics)}, separators=(",", ":"))
        name = channel(settings.REDIS_URL)

        def publish(redis: Any) -> int:
            return int(redis.publish(name, said))

        redis_calls.call(publish)
