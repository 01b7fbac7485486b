"""Rollouts over REST: plan, preview, verbs, live state, evidence, and what each state refuses."""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.test import Client

from fleet.accounts.models import AuditEvent
from fleet.api.models import IdempotentRequest
from ota import rollouts
from ota.models import Artifact, Job, Manifest, ModelVersion, Rollout
from tests.api.conftest import Caller, clock
from tests.ota.world import FIRST_PLAN, GATED_PLAN, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def candidate(world: World) -> Manifest:
    """Six devices that run nothing, and a signed, staged manifest for them."""
    world.add(6)
    return world.manifest()


def draft_of(manifest: Manifest, plan: Any = None, **given: Any) -> dict[str, Any]:
    body = {"name": "walk", "model": "kws", "version": manifest.version.version, "plan": plan or FIRST_PLAN}
    return body | given


def verb(call: Caller, path: str, name: str, body: Any = None, key: str = "") -> Any:
    return call("POST", f"{path}/{name}", body or {}, IDEMPOTENCY_KEY=key or uuid4().hex)


def begin(call: Caller, path: str, key: str = "") -> dict[str, Any]:
    """Start a rollout and do the work that is a worker's; the rollout as it is told then."""
    asked = verb(call, path, "start", key=key)
    assert asked.status_code == 202, asked.json()
    assert rollouts.carry_on(path.rpartition("/")[2], now=clock())
    told: dict[str, Any] = call("GET", path).json()
    return told


@pytest.fixture
def path(call: Caller, candidate: Manifest) -> str:
    """Path of a rollout that is ready to start."""
    made = call("POST", "/rollouts", draft_of(candidate))
    assert made.status_code == 201, made.json()
    address = f"/rollouts/{made.json()['id']}"
    assert verb(call, address, "preflight").json()["state"] == "ready"
    return address


def test_a_rollout_goes_from_draft_to_completed(call: Caller, world: World, candidate: Manifest) -> None:
    made = call("POST", "/rollouts", draft_of(candidate))
    state = made.json()
    assert (made.status_code, state["state"]) == (201, "draft")
    assert state["manifest"] | {"mid": candidate.mid, "model": "kws"} == state["manifest"]
    assert state["allowed"] == ["edit", "submit", "preflight", "cancel"]
    assert state["plan"]["min_reach"] == 0.95, "defaults are shown"
    path = f"/rollouts/{state['id']}"
    ready = verb(call, path, "preflight").json()
    assert (ready["state"], ready["summary"]["eligible"], ready["summary"]["reasons"]) == ("ready", 6, [])
    running = begin(call, path)
    assert (running["state"], running["size"], len(running["waves"])) == ("running", 6, 1)
    rollout = Rollout.objects.get()
    world.now = rollout.started_at or world.now
    world.run(rollout, until={"completed"})
    done = call("GET", path).json()
    assert (done["state"], done["counts"], done["allowed"]) == (
        "completed",
        {"confirmed": 6},
        ["create-revert"],
    )
    assert done["sentence"].startswith("Completed")
    jobs = call("GET", f"{path}/jobs?limit=4").json()
    rest = call("GET", f"{path}/jobs?limit=4&cursor={jobs['next']}").json()
    shown = jobs["items"] + rest["items"]
    assert sorted(job["device"] for job in shown) == sorted(world.devices)
    assert {(job["state"], job["wave"], job["kind"], job["attempt"]) for job in shown} == {
        ("confirmed", 1, "install", 1)
    }
    assert call("GET", f"{path}/jobs?state=failed").json()["items"] == []
    trail = [row["verb"] for row in call("GET", f"{path}/events?limit=500").json()["items"]]
    assert trail[-1] == "rollout.create"
    assert trail[0] == "rollout.completed"
    assert {"wave.open", "wave.passed", "rollout.running"} <= set(trail)
    (listed,) = call("GET", "/rollouts?state=completed").json()["items"]
    assert (listed["id"], listed["model"]) == (state["id"], "kws")
    assert call("GET", "/rollouts?state=running").json()["items"] == []


def test_a_preview_stores_nothing(call: Caller, world: World, candidate: Manifest) -> None:
    world.add(2, "host-b", prefix="gate")
    found = call(
        "POST", "/rollouts:preview", draft_of(candidate, {"waves": [{"count": 2}, {"percent": 100}]})
    )
    assert found.status_code == 200, found.json()
    told = found.json()
    assert (told["eligible"], told["skipped"]) == (6, {"target_class": 2})
    assert [wave["size"] for wave in told["waves"]] == [2, 4]
    assert told["reasons"] == []
    plan = GATED_PLAN | {"waves": [{"count": 2}, {"percent": 100}], "control": {"count": 2}, "min_pairs": 5}
    gated = call("POST", "/rollouts:preview", draft_of(candidate, plan)).json()
    assert [reason["code"] for reason in gated["reasons"]] == ["no_baseline"]
    narrow = draft_of(candidate, target={"classes": ["host-a"], "devices": ["dev-001", "gate-001"]})
    assert call("POST", "/rollouts:preview", narrow).json()["eligible"] == 1
    assert not Rollout.objects.exists()
    made = call("POST", "/rollouts", draft_of(candidate)).json()
    preflight = verb(call, f"/rollouts/{made['id']}", "preflight").json()["summary"]
    assert preflight == call("POST", "/rollouts:preview", draft_of(candidate)).json()


def test_pause_resume_abort(call: Caller, world: World, path: str) -> None:
    begin(call, path)
    rollout = world.tick(Rollout.objects.get())
    assert Job.objects.filter(rollout=rollout).count() == 6
    paused = verb(call, path, "pause", {"reason": "storm"}).json()
    assert (paused["state"], paused["reason"]) == ("paused", "storm")
    assert verb(call, path, "resume").json()["state"] == "running"
    counted = verb(call, path, "abort", {"dry_run": True}, key="dry").json()
    assert counted["dry_run"] is True
    assert set(counted) == {"dry_run", "keep", "withdrawn", "in_trial", "cancelled", "download_bytes"}
    assert call("GET", path).json()["state"] == "running", "a dry run changes nothing"
    assert verb(call, path, "abort", {"reason": "enough"}, key="real").json()["state"] == "aborting"


def test_rollback_counts_first_and_then_takes_back(call: Caller, world: World, path: str) -> None:
    begin(call, path)
    rollout = Rollout.objects.get()
    world.now = rollout.started_at or world.now
    world.tick(rollout)
    for _ in range(8):
        world.step()
    counted = verb(call, path, "rollback", {"dry_run": True}, key="dry").json()
    assert (counted["exposed"], counted["stop"], counted["needs_download"]) == (6, 6, 0)
    back = verb(call, path, "rollback", {"reason": "worse"}, key="real").json()
    assert (back["state"], back["reason"]) == ("rolling_back", "worse")
    world.run(rollout, until={"rolled_back"})
    assert call("GET", path).json()["rollback"]["done"] == 6


def test_a_halt_is_resumed_only_with_its_evidence_and_the_right_to(call: Caller, world: World) -> None:
    world.add(40)
    world.running(world.manifest())
    world.pass_time(600)
    bad = world.manifest(accuracy=0.5)
    made = call("POST", "/rollouts", draft_of(bad, GATED_PLAN | {"on_fail": "halt"}))
    path = f"/rollouts/{made.json()['id']}"
    assert verb(call, path, "preflight").json()["state"] == "ready"
    begin(call, path)
    rollout = Rollout.objects.get(pk=made.json()["id"])
    world.now = world._telemetry_at = rollout.started_at or world.now
    world.run(rollout, until={"halted"})

    (newest, *_) = call("GET", f"{path}/gate").json()["items"]
    assert newest["verdict"] == "fail"
    assert [row["rule"] for row in newest["rows"]]
    full = call("GET", f"{path}/gate/{newest['id']}").json()
    assert full["inputs"]
    assert full["rows"] == newest["rows"]
    state = call("GET", path).json()
    assert state["halted_on"] == newest["id"]
    assert "resume" not in call.as_role("operator")("GET", path).json()["allowed"]

    said = {"ack_evidence": newest["id"], "reason": "a sensor was covered"}
    refused = verb(call.as_role("operator"), path, "resume", said)
    assert (refused.status_code, refused.json()["scope"]) == (403, "rollouts:approve")
    approver = call.as_role("approver")
    stale = verb(approver, path, "resume", said | {"ack_evidence": path.rsplit("/", 1)[1]})
    assert (stale.status_code, stale.json()["code"]) == (409, "evidence_not_current")
    silent = verb(approver, path, "resume", said | {"reason": " "}, key="2")
    assert silent.json()["code"] == "validation"
    assert verb(approver, path, "resume", said, key="3").json()["state"] == "running"
    assert verb(call, path, "pause", {"reason": "wait"}).json()["state"] == "paused"
    only = verb(approver, path, "resume", {}, key="4")
    assert (only.status_code, only.json()["scope"]) == (403, "rollouts:write")
    assert verb(call.as_role("operator"), path, "resume", {}, key="5").json()["state"] == "running"


def test_what_a_state_does_not_allow_is_409_with_what_it_does(call: Caller, path: str) -> None:
    for name in ("preflight", "pause", "resume", "abort", "rollback"):
        answer = verb(call, path, name)
        assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition"), name
        assert (answer.json()["state"], answer.json()["allowed"]) == ("ready", ["cancel", "edit", "start"])
    assert verb(call, path, "cancel", {"reason": "no"}).json()["state"] == "cancelled"
    gone = verb(call, path, "start")
    assert (gone.json()["state"], gone.json()["allowed"]) == ("cancelled", [])


def test_a_fleet_that_changed_since_preflight_stops_the_start(call: Caller, world: World, path: str) -> None:
    world.add(3, prefix="late")
    answer = verb(call, path, "start", key="same")
    assert (answer.status_code, answer.json()["code"]) == (409, "target_changed")
    assert answer.json()["fix"]
    assert call("GET", path).json()["state"] == "draft", "the refusal itself moved it"
    verb(call, path, "preflight")
    again = begin(call, path, key="same")
    assert again["state"] == "running", "a refused key may be used again"


def test_a_repeated_verb_gets_the_first_answer_and_acts_once(call: Caller, path: str) -> None:
    first = verb(call, path, "start", key="same")
    assert rollouts.carry_on(path.rpartition("/")[2], now=clock())
    again = verb(call, path, "start", key="same")
    assert again.content == first.content
    assert (again.status_code, again["Idempotent-Replayed"]) == (202, "true")
    assert again["Location"] == first["Location"]
    assert "Idempotent-Replayed" not in first
    other = verb(call, path, "start", {"reason": "other"}, key="same")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert AuditEvent.objects.filter(verb="rollout.running").count() == 1
    assert verb(call.as_role("operator"), path, "start", key="same").json()["code"] == "illegal_transition"


@pytest.mark.parametrize(
    ("given", "code", "pointer"),
    [
        ({"plan": {}}, "validation", "/plan/waves"),
        ({"plan": {"waves": [{"count": 1}, {"percent": 50}]}}, "validation", "/plan/waves"),
        ({"plan": {"waves": [{"percent": 20}, {"percent": 10}, {"percent": 100}]}}, "validation",
         "/plan/waves/1/percent"),
        ({"plan": FIRST_PLAN | {"soak_s": -1}}, "validation", "/plan/soak_s"),
        ({"plan": FIRST_PLAN | {"soak_s": float("nan")}}, "validation", "/plan/soak_s"),
        ({"plan": FIRST_PLAN | {"speed": 3}}, "validation", "/plan/speed"),
        ({"plan": GATED_PLAN | {"accept_proxy": False}}, "validation", "/plan/accept_proxy"),
        ({"plan": GATED_PLAN | {"metrics": [{"metric": "accuracy", "promote_margin": 0.0}]}},
         "gate_unreachable", "/plan/metrics/0/promote_margin"),
        ({"plan": GATED_PLAN | {"metrics": [{"metric": "accuracy", "promote_margin": 0.1, "weight": 0.5}]}},
         "alpha_split", "/plan/metrics"),
        ({"plan": []}, "validation", "/plan"),
        ({"target": {"devices": ["none"]}}, "unknown_device", "/target/devices"),
        ({"target": {"classes": ["none"]}}, "unknown_class", "/target/classes"),
        ({"target": {"query": "class==a"}}, "validation", "/target/query"),
        ({"target": {"groups": ["none"]}}, "unknown_group", "/target/groups"),
        ({"name": ""}, "validation", "/name"),
        ({"name": "x" * 81}, "validation", "/name"),
        ({"slot": 4}, "validation", "/slot"),
        ({"wave": 1}, "validation", "/wave"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused_at_its_place(
    call: Caller, candidate: Manifest, given: Any, code: str, pointer: str
) -> None:
    for path in ("/rollouts", "/rollouts:preview"):
        answer = call("POST", path, draft_of(candidate) | given)
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.json()
        assert [entry["pointer"] for entry in answer.json()["errors"]] == [pointer]
    assert not Rollout.objects.exists()


def test_only_a_released_version_is_rolled_out(call: Caller, candidate: Manifest) -> None:
    at = candidate.created_at
    other = Artifact.objects.create(sha256="00" * 32, size=1, data=b"x", created_at=at)
    ModelVersion.objects.create(model_id="kws", version="9", artifact=other, created_at=at)
    for name, status, code in (("9", 422, "preflight_required"), ("10", 404, "not_found")):
        answer = call("POST", "/rollouts", draft_of(candidate) | {"version": name})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    answer = call("POST", "/rollouts", draft_of(candidate, slot=1))
    assert answer.json()["code"] == "preflight_required"


def test_an_explanation_names_what_is_in_the_way(call: Caller, path: str) -> None:
    assert call("GET", f"{path}/explain/dev-001").json()["code"] == "not_started"
    begin(call, path)
    told = call("GET", f"{path}/explain/dev-001").json()
    assert (told["device_id"], told["membership"]["arm"], told["membership"]["wave"]) == (
        "dev-001",
        "wave",
        1,
    )
    assert told["sentence"]
    assert call("GET", f"{path}/explain/none").status_code == 404


def test_unknown_rollouts_and_evidence_are_404(call: Caller, path: str) -> None:
    unknown = "00000000-0000-7000-8000-000000000000"
    for rest in ("", "/jobs", "/events", "/gate", f"/gate/{unknown}", "/explain/dev-001"):
        assert call("GET", f"/rollouts/{unknown}{rest}").status_code == 404, rest
    assert call("GET", f"{path}/gate/{unknown}").status_code == 404
    for name in ("submit", "preflight", "reject", "start", "pause", "resume", "abort", "rollback", "cancel"):
        assert verb(call, f"/rollouts/{unknown}", name).status_code == 404, name


@pytest.fixture
def threads_with_connections() -> Iterator[list[threading.Thread]]:
    """Threads that a test starts; joined before the database is emptied."""
    started: list[threading.Thread] = []
    yield started
    for thread in started:
        thread.join(30)


@pytest.mark.django_db(transaction=True)
def test_equal_requests_at_once_make_one_rollout(
    call: Caller, candidate: Manifest, threads_with_connections: list[threading.Thread]
) -> None:
    answers: list[Any] = []
    barrier = threading.Barrier(8)

    def send() -> None:
        caller = Caller.__new__(Caller)
        caller._client, caller.text = Client(), call.text
        barrier.wait(10)
        answers.append(caller("POST", "/rollouts", draft_of(candidate), IDEMPOTENCY_KEY="once"))
        connection.close()

    threads_with_connections += [threading.Thread(target=send) for _ in range(8)]
    for thread in threads_with_connections:
        thread.start()
    for thread in threads_with_connections:
        thread.join(30)
    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replayed" in answer for answer in answers) == 7
    assert Rollout.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_request_whose_first_one_still_runs_is_told_so(
    call: Caller, candidate: Manifest, threads_with_connections: list[threading.Thread]
) -> None:
    held, done = threading.Event(), threading.Event()

    def first() -> None:
        with transaction.atomic():
            IdempotentRequest.objects.create(
                owner=call.token.public_id, key="k", request_digest="d", created_at=call.token.created_at
            )
            held.set()
            done.wait(20)
            transaction.set_rollback(True)  # killed before it committed
        connection.close()

    threads_with_connections.append(threading.Thread(target=first))
    threads_with_connections[0].start()
    assert held.wait(10)
    body = draft_of(candidate)
    answer = call("POST", "/rollouts", body, IDEMPOTENCY_KEY="k")
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_progress")
    done.set()
    threads_with_connections[0].join(10)
    assert call("POST", "/rollouts", body, IDEMPOTENCY_KEY="k").status_code == 201


@pytest.mark.django_db(transaction=True)
def test_a_crash_after_the_verb_leaves_neither_change_nor_key(
    call: Caller, candidate: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rollouts.create

    class Killed(BaseException):
        pass

    def create(*args: Any, **given: Any) -> Any:
        real(*args, **given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(rollouts, "create", create)
        with pytest.raises(Killed):
            call("POST", "/rollouts", draft_of(candidate), IDEMPOTENCY_KEY="k")
    assert not Rollout.objects.exists()
    assert not IdempotentRequest.objects.exists()
    assert call("POST", "/rollouts", draft_of(candidate), IDEMPOTENCY_KEY="k").status_code == 201
