"""A target that reaches nobody, or other devices than were previewed: coded over REST, kept in the trail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fleet.accounts.models import AuditEvent
from fleet.devices import quarantine
from fleet.devices.models import Device
from ota.models import Manifest, Operation, Rollout
from tests.api.conftest import Caller, clock
from tests.api.test_rollouts import candidate as candidate
from tests.api.test_rollouts import draft_of, verb
from tests.ota.world import ACTOR, World

pytestmark = pytest.mark.django_db
NOBODY = {"classes": ["host-b"]}


def made(call: Caller, manifest: Manifest, **given: Any) -> str:
    """Path of a new draft."""
    answer = call("POST", "/rollouts", draft_of(manifest, **given))
    assert answer.status_code == 201, answer.json()
    return f"/rollouts/{answer.json()['id']}"


def ready(call: Caller, manifest: Manifest, **given: Any) -> str:
    path = made(call, manifest, **given)
    told = verb(call, path, "submit").json()
    assert told["state"] == "ready", told["summary"]["reasons"]
    return path


def reasons(told: Any) -> list[tuple[str, str]]:
    return [(one["code"], one["field"]) for one in told["reasons"]]


def trail(path: str) -> list[tuple[str, str, str]]:
    """(verb, who, why) of a rollout's audit rows, newest first."""
    rows = AuditEvent.objects.filter(subject_id=path.rpartition("/")[2]).order_by("-at", "-pk")
    return [(row.verb, row.actor, row.reason) for row in rows]


def hold(*names: str) -> None:
    for name in names:
        quarantine.quarantine(name, reason="it burnt", actor=ACTOR, now=clock())


def retire(*names: str) -> None:
    Device.objects.filter(pk__in=names).update(retired_at=clock())


def test_an_empty_target_is_told_by_the_preview_and_refused_by_submit(
    call: Caller, candidate: Manifest
) -> None:
    preview = call("POST", "/rollouts:preview", draft_of(candidate, target=NOBODY))
    assert (preview.status_code, preview.json()["eligible"]) == (200, 0)
    assert reasons(preview.json()) == [("empty_target", "target")]
    path = made(call, candidate, target=NOBODY)
    told = verb(call, path, "submit").json()
    assert (told["state"], told["allowed"]) == ("preflight_failed", ["edit", "cancel"])
    assert reasons(told["summary"]) == [("empty_target", "target")]
    newest = trail(path)[0]
    assert newest[0] == "rollout.preflight_failed"
    assert newest[2].startswith("empty_target: ")
    start = verb(call, path, "start")
    assert (start.status_code, start.json()["code"]) == (409, "illegal_transition")
    etag = call("GET", path)["ETag"]
    edited = call("PATCH", path, {"target": {"classes": ["host-a"]}}, IF_MATCH=etag)
    assert edited.json()["state"] == "draft"
    assert verb(call, path, "submit").json()["state"] == "ready"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda world: retire(*world.devices), "eligible classes were ['host-a'], are []"),
        (lambda world: hold(*world.devices), "eligible classes were ['host-a'], are []"),
        (lambda world: (retire("dev-001"), world.add(1, prefix="new")), "1 left, 1 came"),
        (lambda world: world.add(1, prefix="new"), "6 devices were eligible, 7 are"),
    ],
    ids=["all retired", "all quarantined", "one exchanged", "one more"],
)
def test_a_start_that_finds_another_set_is_refused_and_a_draft_again(
    call: Caller, world: World, candidate: Manifest, change: Callable[[World], Any], words: str
) -> None:
    path = ready(call, candidate)
    change(world)
    before = trail(path)
    dry = verb(call, path, "start", {"dry_run": True})
    assert (dry.status_code, dry.json()["code"]) == (409, "target_changed")
    assert words in dry.json()["detail"]
    assert (call("GET", path).json()["state"], trail(path)) == ("ready", before), "a dry run changes nothing"
    refused = verb(call, path, "start")
    assert (refused.status_code, refused.json()["code"]) == (409, "target_changed")
    assert words in refused.json()["detail"]
    told = call("GET", path).json()
    assert (told["state"], told["allowed"]) == ("draft", ["edit", "submit", "preflight", "cancel"])
    (name, who, why), *rest = trail(path)
    assert (name, who) == ("rollout.draft", call.token.owner.username + f"/tfk_{call.token.public_id}")
    assert why.startswith("target_changed: ")
    assert words in why
    assert rest == before
    assert not Operation.objects.exists()


def test_a_target_that_is_empty_by_now_fails_the_next_preflight(
    call: Caller, world: World, candidate: Manifest
) -> None:
    path = ready(call, candidate)
    retire(*world.devices)
    assert verb(call, path, "start").json()["code"] == "target_changed"
    told = verb(call, path, "submit").json()
    assert (told["state"], reasons(told["summary"])) == ("preflight_failed", [("empty_target", "target")])


def test_a_wave_that_lost_every_device_it_names_does_not_start(
    call: Caller, world: World, candidate: Manifest
) -> None:
    world.add(60, prefix="many")
    plan = {"waves": [{"named": ["dev-001", "dev-002"]}, {"percent": 100}], "soak_s": 0}
    path = ready(call, candidate, plan=plan)
    hold("dev-001")
    assert verb(call, path, "start", {"dry_run": True}).status_code == 200, "one of them is left"
    hold("dev-002")
    for dry_run in (True, False):
        refused = verb(call, path, "start", {"dry_run": dry_run})
        assert (refused.status_code, refused.json()["code"]) == (409, "target_changed")
        assert "none of the devices that wave 1 names is eligible any more" in refused.json()["detail"]
    assert call("GET", path).json()["state"] == "draft"
    told = verb(call, path, "submit").json()
    assert reasons(told["summary"]) == [("empty_target", "waves[0].named")]


def test_a_group_that_is_gone_refuses_submit_and_start_and_changes_nothing(
    call: Caller, world: World, candidate: Manifest
) -> None:
    group = {"name": "line-2", "kind": "dynamic", "q": "class==host-a"}
    assert call("POST", "/groups", group).status_code == 201
    path = ready(call, candidate, target={"groups": ["line-2"]})
    etag = call("GET", "/groups/line-2")["ETag"]
    assert call("DELETE", "/groups/line-2", IF_MATCH=etag).status_code == 204
    before = trail(path)
    for dry_run in (True, False):
        refused = verb(call, path, "start", {"dry_run": dry_run})
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_group")
    assert (Rollout.objects.get().state, trail(path)) == ("ready", before)
    preview = call("POST", "/rollouts:preview", draft_of(candidate, target={"groups": ["line-2"]}))
    assert (preview.status_code, preview.json()["code"]) == (422, "unknown_group")
    etag = call("GET", path)["ETag"]
    assert call("PATCH", path, {"name": "still about nobody"}, IF_MATCH=etag).json()["state"] == "draft"
    told = verb(call, path, "submit").json()
    assert (told["state"], reasons(told["summary"])) == (
        "preflight_failed", [("unknown_group", "target.groups")],
    )  # fmt: skip
