"""How often a viewer is told, and what a hint may cost a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from fleet import hints
from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM
from fleet.live.hub import EVERY_S, Viewer


def in_a_loop(story: Callable[[Viewer], None]) -> None:
    async def run() -> None:
        story(Viewer(["alerts", "rollouts"], "test"))

    asyncio.run(run())


def test_an_object_is_told_at_most_twice_a_second_and_the_newest_wins() -> None:
    def story(viewer: Viewer) -> None:
        told = []
        for step in range(20):
            viewer.offer("alerts", step)
            told += list(viewer.due(step * 0.1).items())
        assert told == [("alerts", 0), ("alerts", 5), ("alerts", 10), ("alerts", 15)]
        assert viewer.next_at() == pytest.approx(1.5 + EVERY_S)
        assert viewer.due(1.5 + EVERY_S) == {"alerts": 19}, "the last of them is never lost"

    in_a_loop(story)


def test_objects_do_not_hold_each_other_back() -> None:
    def story(viewer: Viewer) -> None:
        viewer.offer("alerts", 1)
        assert viewer.due(0.0) == {"alerts": 1}
        viewer.offer("alerts", 2)
        viewer.offer("rollouts", 3)
        assert viewer.due(0.1) == {"rollouts": 3}
        assert viewer.due(0.6) == {"alerts": 2}
        assert viewer.next_at() == float("inf")

    in_a_loop(story)


@pytest.mark.django_db
def test_the_hints_of_a_transaction_become_one_message(
    django_capture_on_commit_callbacks: Any, now: Any
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        for n in range(50):
            audit.record(actor=SYSTEM, verb="x", subject_kind="wave", subject_id=f"r1/{n}", at=now)
            hints.changed(hints.device(f"d{n}"))
    assert len(callbacks) == 1
    assert list(callbacks[0].topics)[:3] == ["rollout:r1", "rollouts", "device:d0"]
    assert len(callbacks[0].topics) == 52


@pytest.mark.django_db
def test_what_a_savepoint_took_back_is_not_told(django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        hints.changed("alerts")
        with transaction.atomic():
            hints.changed("rollouts")
            transaction.set_rollback(True)
        hints.changed("device:d1")
    assert [topic for one in callbacks for topic in one.topics] == ["alerts", "device:d1"]
