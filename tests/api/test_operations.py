"""A start over REST is an operation: 202 with where to look, told until it has ended, its problem as an
error would be.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fleet.accounts.audit import Actor
from fleet.telemetry import export_jobs
from fleet.telemetry.export import Wanted
from ota import rollouts, starting
from ota.models import Manifest, Operation
from tests.api.conftest import Caller, clock
from tests.api.test_rollouts import draft_of, verb
from tests.ota.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def candidate(world: World) -> Manifest:
    """Six devices, and a signed version that fits them."""
    world.add(6)
    return world.manifest()


def ready(call: Caller, candidate: Manifest) -> str:
    made = call("POST", "/rollouts", draft_of(candidate))
    path = f"/rollouts/{made.json()['id']}"
    assert verb(call, path, "preflight").json()["state"] == "ready"
    return path


def carry_on(path: str) -> None:
    assert rollouts.carry_on(path.rpartition("/")[2], now=clock())


def told(call: Caller, answer: Any) -> dict[str, Any]:
    found = call("GET", answer["Location"].removeprefix("/api/v1"))
    assert found.status_code == 200
    body: dict[str, Any] = found.json()
    return body


def test_a_start_is_answered_with_an_operation_that_ends_with_the_rollout_running(
    call: Caller, candidate: Manifest
) -> None:
    path = ready(call, candidate)
    answer = verb(call, path, "start")
    assert answer.status_code == 202
    body = answer.json()
    assert answer["Location"] == f"/api/v1/operations/{body['id']}"
    assert (body["kind"], body["state"], body["progress"]) == (
        "rollout.start",
        "queued",
        {"done": 0, "total": 6},
    )
    assert (body["result"], body["problem"], body["finished_at"]) == (None, None, None)
    assert told(call, answer) == body
    state = call("GET", path).json()
    assert state["starting"] == {"operation": body["id"], "done": 0, "total": 6}
    assert state["allowed"] == ["edit", "cancel"]
    carry_on(path)
    done = told(call, answer)
    assert (done["state"], done["progress"]["done"], done["result"]) == ("succeeded", 6, f"/api/v1{path}")
    assert done["finished_at"]
    assert call("GET", path).json()["state"] == "running"


def test_a_start_that_fails_later_says_so_as_an_error_would(call: Caller, candidate: Manifest) -> None:
    first, second = ready(call, candidate), ready(call, candidate)
    verb(call, first, "start")
    answer = verb(call, second, "start")
    carry_on(first)
    carry_on(second)
    failed = told(call, answer)
    assert (failed["state"], failed["result"]) == ("failed", None)
    assert failed["problem"] | {"status": 409, "code": "target_changed"} == failed["problem"]
    assert failed["problem"]["type"] == "/errors/target_changed"
    assert call("GET", second).json()["state"] == "draft"


def test_a_second_start_with_another_key_is_refused_while_the_first_works(
    call: Caller, candidate: Manifest
) -> None:
    path = ready(call, candidate)
    verb(call, path, "start")
    again = verb(call, path, "start")
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
    assert again.json()["allowed"] == ["cancel", "edit"]
    assert Operation.objects.count() == 1


def test_what_is_refused_at_once_leaves_no_operation(call: Caller, world: World, candidate: Manifest) -> None:
    path = ready(call, candidate)
    dry = verb(call, path, "start", {"dry_run": True})
    assert (dry.status_code, dry.json()["devices"]) == (200, 6)
    world.add(3, prefix="late")
    answer = verb(call, path, "start")
    assert (answer.status_code, answer.json()["code"]) == (409, "target_changed")
    assert not Operation.objects.exists()


def test_progress_is_told_between_two_batches(call: Caller, candidate: Manifest, monkeypatch: Any) -> None:
    path = ready(call, candidate)
    answer = verb(call, path, "start")
    seen = []
    write = starting.Draw.write

    def looks(self: Any, first: int, count: int) -> None:
        seen.append(told(call, answer))
        write(self, first, count)

    monkeypatch.setattr(starting, "BATCH", 2)
    monkeypatch.setattr(starting.Draw, "write", looks)
    carry_on(path)
    assert [(body["state"], body["progress"]["done"]) for body in seen] == [
        ("running", 2),
        ("running", 4),
        ("running", 6),
    ]


def test_an_unknown_operation_is_404(call: Caller) -> None:
    answer = call("GET", "/operations/00000000-0000-7000-8000-000000000000")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_operations_of_both_kinds_are_one_list(call: Caller, candidate: Manifest) -> None:
    asked = []
    for n in range(3):
        wanted = Wanted("window", "ndjson", clock() - timedelta(hours=n + 1), clock())
        asked.append(str(export_jobs.ask(wanted, actor=Actor("user", f"anna-{n}"), now=clock()).pk))
        if n == 1:
            asked.append(verb(call, ready(call, candidate), "start").json()["id"])
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = call("GET", f"/operations?limit=1&sort=id&cursor={cursor}").json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == asked
    newest = call("GET", "/operations").json()["items"]
    assert [item["id"] for item in newest] == asked[::-1]
    assert {item["kind"] for item in newest} == {"rollout.start", "telemetry.export"}
    assert call("GET", "/operations?state=failed").json()["items"] == []
    assert call("GET", "/operations?state=lunch").json()["code"] == "validation"
    for scope, kind in (("rollouts:read", "rollout.start"), ("telemetry:read", "telemetry.export")):
        items = call.as_role("admin", [scope])("GET", "/operations").json()["items"]
        assert {item["kind"] for item in items} == {kind}
    first = call("GET", "/operations?limit=1").json()["next"]
    other = call.as_role("admin", ["rollouts:read"])("GET", f"/operations?limit=1&cursor={first}")
    assert other.json()["code"] == "cursor_mismatch", "it is another list"
