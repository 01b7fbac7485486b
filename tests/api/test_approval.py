"""Submit, approve and reject over REST: digests, persons, tokens, and what is refused."""

from typing import Any
from uuid import uuid4

import pytest

from ota.models import Approval, Rollout
from tests.api.conftest import Caller
from tests.api.test_rollouts import begin
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db

DIGESTS = ("manifest_sha256", "plan_digest", "target_digest")


def post(call: Caller, path: str, body: Any = None) -> Any:
    return call("POST", path, body or {}, IDEMPOTENCY_KEY=uuid4().hex)


@pytest.fixture
def path(call: Caller, world: World) -> str:
    """Path of a rollout that awaits an approval, made by an administrator."""
    world.add(6)
    manifest = world.manifest()
    body = {"name": "walk", "model": "kws", "version": manifest.version.version}
    made = call("POST", "/rollouts", body | {"plan": FIRST_PLAN | {"requires_approval": True}})
    assert made.status_code == 201, made.json()
    path = f"/rollouts/{made.json()['id']}"
    assert post(call, f"{path}/submit").json()["state"] == "awaiting_approval"
    return path


def digests(call: Caller, path: str) -> dict[str, Any]:
    about = call("GET", path).json()["approval"]["submission"]
    return {name: about[name] for name in DIGESTS}


def test_a_second_person_approves_what_they_read(call: Caller, path: str) -> None:
    approver = call.as_role("approver")
    state = approver("GET", path).json()
    assert state["allowed"] == ["approve", "reject"]
    assert state["approval"]["reasons"] == ["the plan asks for it"]
    assert state["approval"]["submission"]["authors"] == ["admin"]
    answer = post(approver, f"{path}/approve", digests(approver, path) | {"reason": "fine"})
    assert (answer.status_code, answer.json()["state"]) == (200, "ready")
    assert answer.json()["approval"]["approved_by"] == "approver"
    (event,) = [
        row for row in call("GET", f"{path}/events").json()["items"] if row["verb"] == "approval.approve"
    ]
    assert f"approver/tfk_{approver.token.public_id}" in str(event["actor"])
    assert begin(call, path)["state"] == "running"


def test_the_author_is_no_second_person_with_another_token_either(call: Caller, path: str) -> None:
    other = call.as_role("admin")
    assert other.token != call.token
    assert "approve" not in other("GET", path).json()["allowed"]
    for name, body in (("approve", digests(call, path)), ("reject", {"reason": "no"})):
        answer = post(other, f"{path}/{name}", body)
        assert (answer.status_code, answer.json()["code"]) == (403, "approver_is_author")
    assert Rollout.objects.get().state == "awaiting_approval"
    assert not Approval.objects.exists()


def test_stale_digests_get_the_difference(call: Caller, path: str) -> None:
    answer = post(
        call.as_role("approver"), f"{path}/approve", digests(call, path) | {"plan_digest": "0" * 64}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "approval_stale")
    assert "no plan of this rollout has the digest 0000000000000000" in answer.json()["detail"]


@pytest.mark.parametrize("name", DIGESTS)
@pytest.mark.parametrize("value", [None, "", "abc", 7, "f" * 65])
def test_an_approval_names_every_digest(call: Caller, path: str, name: str, value: Any) -> None:
    body = digests(call, path)
    body = {key: item for key, item in body.items() if key != name} if value is None else body | {name: value}
    answer = post(call.as_role("approver"), f"{path}/approve", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert answer.json()["errors"][0]["pointer"] == f"/{name}"


def test_a_rejection_needs_a_reason_and_ends_it(call: Caller, path: str) -> None:
    approver = call.as_role("approver")
    silent = post(approver, f"{path}/reject")
    assert (silent.status_code, silent.json()["code"]) == (422, "validation")
    done = post(approver, f"{path}/reject", {"reason": "too soon"}).json()
    assert (done["state"], done["allowed"]) == ("rejected", [])
    again = post(approver, f"{path}/approve", digests(call, path))
    assert (again.status_code, again.json()["code"], again.json()["allowed"]) == (
        409,
        "illegal_transition",
        [],
    )


def test_an_operator_does_not_decide(call: Caller, path: str) -> None:
    for name, body in (("approve", digests(call, path)), ("reject", {"reason": "no"})):
        answer = post(call.as_role("operator"), f"{path}/{name}", body)
        assert (answer.status_code, answer.json()["scope"]) == (403, "rollouts:approve")


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"start_at": "2026-05-02T12:00:00"}, "validation", "/plan/start_at"),
        ({"start_at": 5}, "validation", "/plan/start_at"),
        ({"zone": "Mars/Phobos"}, "validation", "/plan/zone"),
        ({"windows": [{"at": "02:00", "minutes": 0}]}, "window_never_opens", "/plan/windows/0"),
        (
            {"windows": [{"at": "02:00", "minutes": 9, "weekdays": []}]},
            "window_never_opens",
            "/plan/windows/0",
        ),
        ({"late": "maybe"}, "validation", "/plan/late"),
        ({"tail_days": 0}, "validation", "/plan/tail_days"),
        ({"offers_per_minute": 0}, "validation", "/plan/offers_per_minute"),
        ({"rollback_to": "none"}, "validation", "/plan/rollback_reason"),
        (
            {"rollback_to": "none", "rollback_reason": "x", "on_fail": "rollback"},
            "rollback_unavailable",
            "/plan/on_fail",
        ),
        ({"rollback_reason": "x"}, "validation", "/plan/rollback_reason"),
    ],
)
def test_a_schedule_that_means_nothing_is_refused_by_its_field(
    call: Caller, world: World, change: dict[str, Any], code: str, pointer: str
) -> None:
    world.add(2)
    manifest = world.manifest()
    body = {"name": "walk", "model": "kws", "version": manifest.version.version, "plan": FIRST_PLAN | change}
    answer = call("POST", "/rollouts", body)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.json()
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert not Rollout.objects.exists()
