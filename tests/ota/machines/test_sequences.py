"""Sequences of rules that once went wrong, each played as it was found."""

from __future__ import annotations

import pytest

from ota.models import Rollout
from tests.ota.machines.scene import Scene
from tests.ota.machines.test_machines import bound

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]


@pytest.mark.parametrize("at", [4, 10, 13])
def test_a_worker_that_dies_in_the_first_of_two_starts_leaves_it_to_be_the_first(
    scene: Scene, at: int
) -> None:
    """Before, in and behind its batch of memberships. The next worker takes the same rollout first, once the
    dead one's lease is over, and the other finds its devices held, as without the death.
    """
    machine = bound(scene)()
    machine.begin(plan=1, count=13)
    machine.whatever_happened()
    machine.another_rollout(manifest=3, plan=1, starts=True)
    machine.device_is_deleted(index=7)
    machine.whatever_happened()
    machine.worker_dies_in_a_tick(at=at)
    machine.whatever_happened()


def test_whoever_edits_what_has_started_hears_what_is_possible(scene: Scene) -> None:
    """`immutable` says so with a code of its own."""
    machine = bound(scene)()
    machine.begin(plan=0, count=8)
    machine.tick()
    (rollout,) = Rollout.objects.all()
    assert rollout.state == "running"
    machine._ask(rollout, "edit", 5)
    machine.whatever_happened()
