"""Changing a rollout only as it was read: ETag, If-Match, PATCH and DELETE, and what is changed no more."""

from typing import Any

import pytest
from django.utils import timezone

from fleet.accounts.models import AuditEvent
from ota import rollouts
from ota.models import Manifest, Rollout
from tests.api.conftest import Caller
from tests.api.test_rollouts import begin, draft_of, verb
from tests.api.test_rollouts import candidate as candidate
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def draft(call: Caller, candidate: Manifest) -> tuple[str, str]:
    """Path and ETag of a draft."""
    made = call("POST", "/rollouts", draft_of(candidate), IDEMPOTENCY_KEY="made")
    assert made["ETag"] == f'"{made.json()["rev"]}"'
    return f"/rollouts/{made.json()['id']}", made["ETag"]


def test_a_patch_changes_what_was_read_and_nothing_newer(call: Caller, draft: tuple[str, str]) -> None:
    path, etag = draft
    missing = call("PATCH", path, {"name": "a"})
    assert (missing.status_code, missing.json()["code"]) == (428, "if_match_required")
    plan = FIRST_PLAN | {"soak_s": 5}
    changed = call("PATCH", path, {"name": "renamed", "plan": plan}, IF_MATCH=etag)
    assert changed.status_code == 200, changed.json()
    told = changed.json()
    assert (told["name"], told["plan"]["soak_s"], told["state"]) == ("renamed", 5, "draft")
    assert changed["ETag"] == call("GET", path)["ETag"] != etag
    lost = call("PATCH", path, {"name": "too late"}, IF_MATCH=etag)
    assert (lost.status_code, lost.json()["code"], lost.json()["etag"]) == (412, "stale", changed["ETag"])
    wrong = call("PATCH", path, {"plan": {"waves": []}}, IF_MATCH=changed["ETag"])
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/plan/waves")
    empty = call("PATCH", path, {}, IF_MATCH=changed["ETag"])
    assert (empty.status_code, empty.json()["code"]) == (422, "validation")
    assert call("GET", path).json()["name"] == "renamed"


def test_an_edit_of_a_ready_rollout_makes_it_a_draft_again(call: Caller, draft: tuple[str, str]) -> None:
    path, _ = draft
    ready = verb(call, path, "preflight")
    back = call("PATCH", path, {"target": {"devices": ["dev-001"]}}, IF_MATCH=ready["ETag"])
    assert (back.status_code, back.json()["state"]) == (200, "draft")


def test_a_verb_may_name_the_revision_it_means(call: Caller, draft: tuple[str, str]) -> None:
    path, etag = draft
    ready = call("POST", f"{path}/preflight", {}, IDEMPOTENCY_KEY="p", IF_MATCH=etag)
    assert ready.json()["state"] == "ready"
    stale = call("POST", f"{path}/start", {}, IDEMPOTENCY_KEY="s", IF_MATCH=etag)
    assert (stale.status_code, stale.json()["code"]) == (412, "stale")
    assert stale.json()["etag"] == ready["ETag"]
    assert call("GET", path).json()["state"] == "ready", "nothing happened"
    started = call("POST", f"{path}/start", {}, IDEMPOTENCY_KEY="s", IF_MATCH=ready["ETag"])
    assert started.status_code == 202
    again = call("POST", f"{path}/start", {}, IDEMPOTENCY_KEY="s", IF_MATCH=ready["ETag"])
    assert (again["Idempotent-Replayed"], again.content) == ("true", started.content)
    assert rollouts.carry_on(path.rpartition("/")[2], now=timezone.now())
    assert call("POST", f"{path}/pause", {}, IF_MATCH="*").json()["state"] == "paused"


def test_a_change_between_reading_and_writing_loses(call: Caller, draft: tuple[str, str]) -> None:
    from ota.permits import StaleError
    from tests.ota.world import ACTOR

    row = Rollout.objects.get()
    row.expected_rev = row.rev
    Rollout.objects.update(rev=row.rev + 1)  # somebody else, after the endpoint compared
    for change in (
        lambda: rollouts.edit(row, name="mine", actor=ACTOR, now=timezone.now()),
        lambda: rollouts.delete(row, actor=ACTOR, now=timezone.now()),
        lambda: rollouts.cancel(row, actor=ACTOR, now=timezone.now()),
    ):
        with pytest.raises(StaleError) as lost:
            change()
        assert lost.value.etag == f'"{row.rev + 1}"'
    assert Rollout.objects.get().state == "draft"


def test_only_a_draft_is_deleted(call: Caller, draft: tuple[str, str], world: World) -> None:
    path, etag = draft
    assert call("DELETE", path).status_code == 428
    ready = verb(call, path, "preflight")
    assert call("DELETE", path, IF_MATCH=etag).status_code == 412
    refused = call("DELETE", path, IF_MATCH=ready["ETag"])
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
    assert refused.json()["allowed"] == ["cancel", "edit", "start"]
    back = call("PATCH", path, {"name": "again"}, IF_MATCH=ready["ETag"])
    gone = call("DELETE", path, IF_MATCH=back["ETag"])
    assert (gone.status_code, call("GET", path).status_code) == (204, 404)
    assert AuditEvent.objects.get(verb="rollout.delete").after == {"name": "again"}
    assert not Rollout.objects.exists()


@pytest.mark.parametrize("end", ["cancelled", "running", "completed"])
def test_what_has_started_or_ended_is_immutable(
    call: Caller, draft: tuple[str, str], world: World, end: str
) -> None:
    path, _ = draft
    verb(call, path, "preflight")
    if end == "cancelled":
        verb(call, path, "cancel")
    else:
        begin(call, path)
    rollout = Rollout.objects.get()
    if end == "completed":
        world.now = rollout.started_at or world.now
        world.run(rollout, until={"completed"})
    etag = call("GET", path)["ETag"]
    body: Any = {"name": "another"}
    for answer in (call("PATCH", path, body, IF_MATCH=etag), call("DELETE", path, IF_MATCH=etag)):
        told = answer.json()
        assert (answer.status_code, told["code"], told["state"]) == (409, "immutable", end)
    assert call("GET", path)["ETag"] == etag
