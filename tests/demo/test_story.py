"""The story's rollouts over REST: refused to the author, approved by another person, started by the time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import User
from fleet.accounts.scopes import scopes_of
from fleet.client import Client
from fleet.demo import plans, story
from fleet.demo.report import Report, Step
from ota import rollouts
from ota.models import Manifest, Rollout
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def setting(live_server: Any, make_user: Callable[..., User], tmp_path: Path) -> story.Setting:
    def client(role: str) -> Client:
        owner = make_user(role)
        _, text = tokens.issue(owner, "demo", scopes_of(owner), actor=SYSTEM, now=timezone.now())
        return Client(live_server.url, text)

    return story.Setting(
        root=tmp_path,
        run_dir=tmp_path,
        devices=6,
        url=live_server.url,
        ca_file="",
        api=client("admin"),
        approver=client("approver"),
        manage=lambda *_: 0,
        report=Report(),
        data_dir=tmp_path,
        model="kws",
    )


def test_a_second_person_approves_and_the_time_starts_it(
    setting: story.Setting, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(timezone.now() - timedelta(hours=1), make_manifest)
    world.add(6)
    version = world.manifest().version.version
    plan = plans.everyone() | {"requires_approval": True, "start_at": plans.soon()}
    made = story.roll_out(setting, "by night", version, plan)
    rollout = Rollout.objects.get(pk=made)
    assert rollout.state == "scheduled"
    assert rollout.approvals.get().by == "approver"
    world.now = world._telemetry_at = timezone.now() + timedelta(seconds=plans.HISTORY_S + 2)
    assert world.tick(rollout).state == "running"
    step = Step("c", "started")
    story.tell_start(step, setting.api.get(f"/rollouts/{made}"))
    assert step.facts["approved by"] == "approver"


def test_without_an_approval_a_person_starts_it(
    setting: story.Setting, make_manifest: Callable[..., Manifest]
) -> None:
    world = World(timezone.now() - timedelta(hours=1), make_manifest)
    world.add(6)
    version = world.manifest().version.version
    made = story.roll_out(setting, "now", version, plans.everyone())
    assert rollouts.tick(made, timezone.now()), "a worker's part"
    rollout = Rollout.objects.get(pk=made)
    assert rollout.state == "running"
    assert not rollout.approvals.exists()
