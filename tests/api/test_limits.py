"""A token that is limited to groups of devices: route x limit. What is outside does not exist for it."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from fleet.accounts.audit import SYSTEM
from fleet.devices import groups
from fleet.devices.models import Device
from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from ota.models import Job, Rollout
from tests.api.conftest import Caller, clock
from tests.api.test_access import SCOPES, ask
from tests.ota.world import FIRST_PLAN, World
from tests.telemetry.batches import make_batch, sketch_batch

pytestmark = pytest.mark.django_db

KNOWS_LIMITS = """
GET /devices
GET /devices/{device_id}
GET /devices/{device_id}/events
GET /devices/{device_id}/telemetry
GET /devices/{device_id}/telemetry/last
POST /devices:config
PATCH /devices/{device_id}
POST /devices/{device_id}/quarantine
POST /devices/{device_id}/release
POST /devices/{device_id}/retire
GET /groups
GET /groups/{name}
GET /groups/{name}/members
GET /device-classes
GET /device-classes/{name}
GET /models
GET /models/{model}
GET /models/{model}/versions
GET /models/{model}/versions/{version}
GET /rollouts
POST /rollouts
POST /rollouts:preview
GET /rollouts/{rollout_id}
PATCH /rollouts/{rollout_id}
DELETE /rollouts/{rollout_id}
GET /rollouts/{rollout_id}/waves
GET /rollouts/{rollout_id}/jobs
GET /rollouts/{rollout_id}/events
GET /rollouts/{rollout_id}/gate
GET /rollouts/{rollout_id}/gate/{evidence_id}
GET /rollouts/{rollout_id}/explain/{device_id}
POST /rollouts/{rollout_id}/waves/{n}/override
POST /rollouts/{rollout_id}/submit
POST /rollouts/{rollout_id}/preflight
POST /rollouts/{rollout_id}/approve
POST /rollouts/{rollout_id}/reject
POST /rollouts/{rollout_id}/start
POST /rollouts/{rollout_id}/pause
POST /rollouts/{rollout_id}/resume
POST /rollouts/{rollout_id}/abort
POST /rollouts/{rollout_id}/rollback
POST /rollouts/{rollout_id}/cancel
POST /rollouts/{rollout_id}/retry-failed
POST /rollouts/{rollout_id}/create-revert
GET /operations/{operation_id}
POST /telemetry:query
GET /telemetry/metrics
GET /telemetry/accuracy
GET /telemetry/latency
GET /telemetry/anomalies/top
GET /telemetry/coverage
""".strip().splitlines()
VERBS = [
    "submit",
    "preflight",
    "reject",
    "start",
    "pause",
    "resume",
    "abort",
    "rollback",
    "cancel",
    "retry-failed",
    "create-revert",
]


@pytest.fixture
def limited(call: Caller, world: World) -> Caller:
    """An administrator's token for the group `mine`: dev-001 and dev-002 of four devices."""
    world.add(4)
    mine = groups.create("mine", kind="static", actor=SYSTEM, now=world.now)
    groups.set_members(mine, ["dev-001", "dev-002"], actor=SYSTEM, now=world.now)
    groups.create("all", kind="dynamic", q="id==dev-*", actor=SYSTEM, now=world.now)
    return call.as_role("admin", groups=["mine"])


def of(answer: Any, name: str = "id") -> list[str]:
    assert answer.status_code == 200, answer.json()
    return [item[name] for item in answer.json()["items"]]


def test_every_route_that_does_not_know_limits_is_refused(limited: Caller) -> None:
    for operation, scopes in SCOPES.items():
        answer = ask(limited, operation)
        is_known = not scopes or operation in KNOWS_LIMITS
        if not is_known:
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), operation
            assert "limited to groups" in answer.json()["detail"]
    assert set(KNOWS_LIMITS) <= set(SCOPES)


def test_lists_hold_what_is_inside(limited: Caller) -> None:
    assert of(limited("GET", "/devices")) == ["dev-001", "dev-002"]
    assert limited("GET", "/devices?total=true").json()["total"] == 2
    for q in ("id==dev-003", "id!=dev-001", "id==dev-001,id==dev-003", "group==all"):
        assert set(of(limited("GET", f"/devices?q={q}"))) <= {"dev-001", "dev-002"}
    assert of(limited("GET", "/devices?search=dev-00")) == ["dev-001", "dev-002"]
    assert of(limited("GET", "/groups"), "name") == ["mine"]
    assert of(limited("GET", "/groups/mine/members")) == ["dev-001", "dev-002"]


@pytest.mark.parametrize("outside", ["dev-003", "nobody"])
def test_a_device_outside_is_no_device(limited: Caller, outside: str) -> None:
    span = "?from=2026-05-01T00:00:00Z&to=2026-05-02T00:00:00Z"
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/events", None),
        ("GET", f"/telemetry{span}", None),
        ("GET", "/telemetry/last", None),
        ("PATCH", "", {"tags": ["x"]}),
        ("POST", "/quarantine", {"reason": "why"}),
        ("POST", "/release", {"reason": "why"}),
        ("POST", "/retire", {"reason": "why"}),
    ):
        answer = limited(method, f"/devices/{outside}{path}", body, IF_MATCH="*")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path)
        assert answer.json()["detail"] == f"no device {outside}"
        inside = limited(method, f"/devices/dev-001{path}", body, IF_MATCH="*")
        assert inside.json().get("detail") != "no device dev-001", (method, path, inside.json())
    for path in ("/groups/all", "/groups/all/members"):
        assert limited("GET", path).status_code == 404
    assert Device.objects.get(pk="dev-003").tags == []


def test_configuration_reaches_what_is_inside(limited: Caller) -> None:
    assert limited("POST", "/devices:config", {"config": {"heartbeat_s": 60}}).json() == {"devices": 2}
    body = {"devices": ["dev-001", "dev-003"], "config": {"heartbeat_s": 60}}
    assert limited("POST", "/devices:config", body).json()["unknown"] == ["dev-003"]


def draft(version: str, **target: Any) -> dict[str, Any]:
    return {"name": "w", "model": "kws", "version": version, "plan": FIRST_PLAN, "target": target}


def test_a_rollout_within_the_groups_is_planned_and_driven(limited: Caller, world: World) -> None:
    version = world.manifest().version.version
    wide = (
        {},
        {"classes": ["host-a"]},
        {"devices": ["dev-001"]},
        {"groups": ["mine", "all"]},
        {"q": "group==mine"},
    )
    for target in wide:
        for path in ("/rollouts", "/rollouts:preview"):
            answer = limited("POST", path, draft(version, **target))
            assert (answer.status_code, answer.json()["groups"]) == (403, ["mine"]), target
    taking = draft(version, groups=["mine"]) | {"plan": {**FIRST_PLAN, "supersede": True}}
    assert limited("POST", "/rollouts", taking).status_code == 403
    assert Rollout.objects.count() == 0
    assert limited("POST", "/rollouts:preview", draft(version, groups=["mine"])).json()["eligible"] == 2
    made = limited("POST", "/rollouts", draft(version, groups=["mine"]))
    path = f"/rollouts/{made.json()['id']}"
    widened = limited("PATCH", path, {"target": {"groups": ["all"]}}, IF_MATCH="*")
    assert widened.status_code == 403
    assert limited("PATCH", path, {"name": "mine"}, IF_MATCH="*").status_code == 200
    ready = limited("POST", f"{path}/preflight", {}, IDEMPOTENCY_KEY=uuid4().hex)
    assert ready.json()["state"] == "ready"
    started = limited("POST", f"{path}/start", {}, IDEMPOTENCY_KEY=uuid4().hex)
    assert started.status_code == 202
    assert limited("GET", f"/operations/{started.json()['id']}").status_code == 200


def test_a_rollout_that_reaches_further_can_be_read_and_no_more(
    limited: Caller, call: Caller, world: World
) -> None:
    rollout = world.started(world.manifest(), FIRST_PLAN)
    path = f"/rollouts/{rollout.pk}"
    world.tick(rollout)
    Job.objects.filter(device_id="dev-003").update(state="failed", code="op_missing")
    assert of(limited("GET", "/rollouts")) == [str(rollout.pk)]
    told = limited("GET", path)
    assert (told.status_code, told.json()["allowed"], told.json()["is_outside_limit"]) == (200, [], True)
    assert "dev-003" in call("GET", path).content.decode()
    for read in (told, limited("GET", f"{path}/waves"), limited("GET", f"{path}/jobs")):
        assert "dev-003" not in read.content.decode()
        assert "dev-004" not in read.content.decode()
    assert sorted(of(limited("GET", f"{path}/jobs"), "device")) == ["dev-001", "dev-002"]
    assert limited("GET", f"{path}/explain/dev-001").status_code == 200
    assert limited("GET", f"{path}/explain/dev-003").status_code == 404
    digests = dict.fromkeys(("manifest_sha256", "plan_digest", "target_digest"), "0" * 64)
    tries = [("POST", f"/{verb}", {}) for verb in VERBS] + [
        ("POST", "/approve", digests),
        ("DELETE", "", None),
    ]
    tries += [("PATCH", "", {"name": "mine"}), ("GET", "/events", None), ("GET", "/gate", None)]
    tries += [("POST", "/waves/1/override", {"evidence": str(uuid4()), "reason": "x"})]
    for method, more, body in tries:
        answer = limited(method, f"{path}{more}", body, IDEMPOTENCY_KEY=uuid4().hex, IF_MATCH="*")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), more
    rollout.refresh_from_db()
    assert rollout.state == "running"


@pytest.fixture
def heard(limited: Caller) -> dict[str, str]:
    """Thirty inferences of each of the four devices; the range that holds them."""
    now = clock()
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    for n in range(1, 5):
        windows = make_batch(start, 3, n=10, anom_n=n, lab_ok=8)
        sketch = sketch_batch(start, {6: [3_100, 0, 190, 10]}, first=99)
        for batch in (windows, sketch):
            ingest.store([Delivery(f"dev-00{n}", batch)], slot=0, now=now)
    return {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"}


def test_telemetry_counts_what_is_inside(limited: Caller, call: Caller, heard: dict[str, str]) -> None:
    def inferences(caller: Caller, **more: Any) -> Any:
        body = {"metric": "inferences", "agg": "sum", "step": 3600, **heard, **more}
        answer = caller("POST", "/telemetry:query", body)
        assert answer.status_code == 200, answer.json()
        return sum(point[1] or 0 for one in answer.json()["series"] for point in one["points"])

    assert (inferences(call), inferences(limited)) == (120, 60)
    assert inferences(limited, q="id==dev-003") == 0
    assert inferences(limited, q="id==dev-001,id==dev-003") == 30
    assert inferences(limited, filters={"groups": ["all"]}) == 60
    assert inferences(limited, filters={"devices": ["dev-001", "dev-004"]}) == 30
    escape = {"metric": "inferences", "agg": "sum", **heard, "q": "id==dev-001),(id==dev-003"}
    assert limited("POST", "/telemetry:query", escape).json()["code"] == "query_syntax"
    span = "&".join(f"{name}={value}" for name, value in heard.items())
    for path in ("latency?q=50&", "accuracy?kind=proxy&"):
        wide = call("GET", f"/telemetry/{path}{span}").json()["series"][0]["points"][0]
        narrow = limited("GET", f"/telemetry/{path}{span}").json()["series"][0]["points"][0]
        assert wide[5] == 2 * narrow[5] > 0, path
    top = limited("GET", f"/telemetry/anomalies/top?exact=true&{span}")
    assert {item["device_id"] for item in top.json()["items"]} == {"dev-001", "dev-002"}
    covered = limited("GET", f"/telemetry/coverage?{span}").json()["items"]
    assert {item["device_id"] for item in covered} <= {"dev-001", "dev-002"}


def test_a_group_that_is_gone_opens_nothing(limited: Caller, heard: dict[str, str]) -> None:
    groups.delete(groups.DeviceGroup.objects.get(pk="mine"), actor=SYSTEM, now=clock())
    assert of(limited("GET", "/devices")) == []
    assert limited("GET", "/devices/dev-001").status_code == 404
    answer = limited("POST", "/telemetry:query", {"metric": "inferences", "agg": "sum", **heard})
    assert (answer.status_code, answer.json()["series"]) == (200, [])


def test_a_token_sees_no_more_than_its_owner(limited: Caller, call: Caller) -> None:
    free = call("POST", "/tokens", {"name": "x", "scopes": ["devices:read"]}).json()["token"]
    own = call("POST", "/tokens", {"name": "x", "scopes": ["devices:read"], "groups": ["mine"]}).json()
    assert own["groups"] == ["mine"]
    unknown = call("POST", "/tokens", {"name": "x", "scopes": ["devices:read"], "groups": ["none"]})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_group")
    owner = call.token.owner
    owner.group_limit = ["all"]
    owner.save()
    for text, seen in ((free, 4), (own["token"], 0), (limited.text, 0)):
        assert len(of(call("GET", "/devices", AUTHORIZATION=f"Bearer {text}"))) == seen
    assert call("POST", "/tokens", {"name": "x", "scopes": ["devices:read"]}).status_code == 403
