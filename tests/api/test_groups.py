"""Groups and queries over REST: lists, imports with line numbers, revisions, and no device by mistake."""

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device, DeviceGroup, GroupMember
from tests.api.conftest import Caller
from tests.ota.world import World

pytestmark = pytest.mark.django_db
CSV, NDJSON = "text/csv; charset=utf-8", "application/x-ndjson"


@pytest.fixture
def fleet(world: World) -> World:
    world.add(4)
    world.add(2, "host-b", prefix="gate")
    return world


def made(call: Caller, name: str, **body: Any) -> Any:
    answer = call("POST", "/groups", {"name": name, **body})
    assert answer.status_code == 201, answer.json()
    return answer.json()


def test_a_device_list_is_selected_by_a_query(call: Caller, fleet: World) -> None:
    Device.objects.filter(pk__in=["dev-001", "gate-001"]).update(tags=["line-2"])
    page = call("GET", "/devices?q=tag==line-2;class==host-a,id==gate-002&limit=1&total=true").json()
    assert ([item["id"] for item in page["items"]], page["total"]) == (["dev-001"], 2)
    query = "q=tag==line-2;class==host-a,id==gate-002"
    rest = call("GET", f"/devices?{query}&limit=1&cursor={page['next']}").json()
    assert [item["id"] for item in rest["items"]] == ["gate-002"]
    other = call("GET", f"/devices?q=tag==line-2&limit=1&cursor={page['next']}")
    assert (other.status_code, other.json()["code"]) == (400, "cursor_mismatch")


@pytest.mark.parametrize(
    ("q", "code", "position", "nearest"),
    [
        ("clas==a", "query_unknown_field", 0, "class"),
        ("id==a;group==plant", "query_unknown_field", 13, "plant-a"),
        ("id==a;;", "query_syntax", 6, None),
        ("id==" + "a" * 2000, "query_syntax", 2000, None),
    ],
)
def test_a_bad_query_answers_400_with_its_position_and_no_rows(
    call: Caller, fleet: World, q: str, code: str, position: int, nearest: str | None
) -> None:
    made(call, "plant-a", kind="static")
    answer = call("GET", f"/devices?q={q}")
    body = answer.json()
    assert (answer.status_code, body["code"], body["position"]) == (400, code, position)
    assert "items" not in body
    assert nearest is None or nearest in body["nearest"]


def test_tags_and_attributes_are_set_with_the_revision_that_was_read(call: Caller, fleet: World) -> None:
    etag = call("GET", "/devices/dev-001")["ETag"]
    body = {"tags": ["line-2", "a", "line-2"], "attributes": {"site": "berlin", "floor": "2"}}
    assert call("PATCH", "/devices/dev-001", body).json()["code"] == "if_match_required"
    answer = call("PATCH", "/devices/dev-001", body, IF_MATCH=etag)
    assert (answer.json()["tags"], answer.json()["attributes"]) == (["a", "line-2"], body["attributes"])
    stale = call("PATCH", "/devices/dev-001", {"tags": []}, IF_MATCH=etag)
    assert (stale.status_code, stale.json()["code"], stale.json()["etag"]) == (412, "stale", answer["ETag"])
    more = call("PATCH", "/devices/dev-001", {"attributes": {"floor": None}}, IF_MATCH=answer["ETag"])
    assert (more.json()["tags"], more.json()["attributes"]) == (["a", "line-2"], {"site": "berlin"})
    events = AuditEvent.objects.filter(verb="device.label").order_by("id")
    assert [event.subject_id for event in events] == ["dev-001", "dev-001"]
    assert events[1].before == {"tags": ["a", "line-2"], "attributes": {"site": "berlin", "floor": "2"}}


@pytest.mark.parametrize(
    "body",
    [
        {"tags": ["with blank"]},
        {"tags": [""]},
        {"tags": [f"t{n}" for n in range(33)]},
        {"attributes": {"Site": "a"}},
        {"attributes": {"site": ""}},
        {"attributes": {"site": "a\u0000"}},
        {"attributes": {"site": "a" * 129}},
        {"attributes": {"site": 3}},
        {"attributes": {"tz": "Mars/Phobos"}},
        {"attributes": {"tz": "europe/berlin"}},
        {"attributes": {"tz": "../Berlin"}},
        {"attributes": {"tz": "localtime"}},
        {"attributes": {"tz": "+02:00"}},
        {"label": "a"},
    ],
)
def test_labels_that_cannot_be_change_nothing(call: Caller, fleet: World, body: object) -> None:
    answer = call("PATCH", "/devices/dev-001", body, IF_MATCH="*")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert Device.objects.get(pk="dev-001").tags == []


def test_a_time_zone_is_one_of_the_database_and_may_be_taken_away(call: Caller, fleet: World) -> None:
    for zone in ("Europe/Berlin", "America/Argentina/Buenos_Aires", "UTC", "Etc/GMT+2"):
        answer = call("PATCH", "/devices/dev-001", {"attributes": {"tz": zone}}, IF_MATCH="*")
        assert answer.json()["attributes"] == {"tz": zone}
    wrong = call("PATCH", "/devices/dev-001", {"attributes": {"tz": "Berlin"}}, IF_MATCH="*")
    assert "no time zone" in str(wrong.json()), wrong.json()
    gone = call("PATCH", "/devices/dev-001", {"attributes": {"tz": None}}, IF_MATCH="*")
    assert gone.json()["attributes"] == {}


def test_many_devices_are_labelled_by_import_or_none(call: Caller, fleet: World) -> None:
    Device.objects.filter(pk="dev-001").update(tags=["old"], attributes={"site": "x", "keep": "1"})
    text = b"id,tags,attr.site\ndev-001,line-1 line-2,berlin\ndev-002,,\n"
    assert call.send("POST", "/devices:import?dry_run=true", text, CSV).json() == {"lines": 2, "changed": 1}
    assert Device.objects.get(pk="dev-001").tags == ["old"]
    assert call.send("POST", "/devices:import", text, CSV).json() == {"lines": 2, "changed": 1}
    row = Device.objects.get(pk="dev-001")
    assert (row.tags, row.attributes) == (["line-1", "line-2"], {"site": "berlin", "keep": "1"})
    text = b'{"id": "dev-001", "attr.keep": ""}\n\n{"id": "dev-002", "tags": ["b"]}\n'
    assert call.send("POST", "/devices:import", text, NDJSON).json() == {"lines": 2, "changed": 2}
    assert Device.objects.get(pk="dev-001").attributes == {"site": "berlin"}
    for bad, code, line in [
        (b"id,tags\ndev-001,ok\nnobody,ok\n", "unknown_device", 3),
        (b"id,tags\ndev-001,ok\ndev-002,not!ok\n", "validation", 3),
        (b"id,attr.tz\ndev-001,UTC\ndev-002,Berlin\n", "validation", 3),
        (b"id,colour\ndev-001,red\n", "validation", 2),
        (b"id,tags\ndev-001,a\ndev-001,b\n", "duplicate", 3),
    ]:
        answer = call.send("POST", "/devices:import", bad, CSV)
        assert (answer.json()["code"], answer.json()["line"]) == (code, line), answer.json()
        assert Device.objects.get(pk="dev-001").tags == ["line-1", "line-2"]


def test_a_static_group_is_its_list(call: Caller, fleet: World) -> None:
    made(call, "pilot", kind="static", description="five desks")
    group = call("GET", "/groups/pilot")
    assert (group["ETag"], group.json()["count"]) == ('"1"', 0)
    body = {"devices": ["dev-002", "dev-001", "gate-001"]}
    answer = call("PUT", "/groups/pilot/members", body, IF_MATCH='"1"')
    assert (answer.json(), answer["ETag"]) == ({"members": 3, "added": 3, "removed": 0}, '"2"')
    answer = call.send("PUT", "/groups/pilot/members", b"dev-003\ndev-001\n", CSV, IF_MATCH='"2"')
    assert answer.json() == {"members": 2, "added": 1, "removed": 2}
    found = call("GET", "/groups/pilot").json()
    assert (found["count"], found["sample"], found["classes"]) == (2, ["dev-001", "dev-003"], {"host-a": 2})
    page = call("GET", "/groups/pilot/members?total=true&limit=1").json()
    assert (page["total"], [item["id"] for item in page["items"]]) == (2, ["dev-001"])
    event = AuditEvent.objects.filter(verb="group.members").latest("id")
    assert event.after == {
        "members": 2, "added": 1, "removed": 2, "added_first": ["dev-003"],
        "removed_first": ["dev-002", "gate-001"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "kind", "code", "line"),
    [
        (b"id\ndev-001\nnobody\n", CSV, "unknown_device", 3),
        (b'"dev-001"\n{"id": "nobody"}\n', NDJSON, "unknown_device", 2),
        (b"dev-001\nDEV 2\n", CSV, "validation", 2),
        (b"dev-001\ndev-001\n", CSV, "duplicate", 2),
        (b"dev-001,more\n", CSV, "validation", 1),
        (b'id,x\ndev-001,"a\n', CSV, "validation", 2),
        (b'"dev-001"\n[1]\n', NDJSON, "validation", 2),
        (b'"dev-001"\n{"id":\n', NDJSON, "validation", 2),
        (b"dev-001\n\xff\n", CSV, "validation", 2),
        (b"dev-001\nde\x00v\n", CSV, "validation", 2),
        (b'{"devices": ["nobody"]}', "application/json", "unknown_device", None),
        (b'{"devices": [1]}', "application/json", "validation", None),
        (b'{"devices"', "application/json", "malformed_json", None),
        (b"dev-001", "text/plain", "media_type", None),
        (b"a" * (4 * 1024 * 1024 + 1), CSV, "too_large", None),
    ],
)
def test_a_list_with_one_bad_line_imports_nothing_and_names_the_line(
    call: Caller, fleet: World, data: bytes, kind: str, code: str, line: int | None
) -> None:
    made(call, "pilot", kind="static")
    call("PUT", "/groups/pilot/members", {"devices": ["dev-004"]}, IF_MATCH="*")
    answer = call.send("PUT", "/groups/pilot/members", data, kind, IF_MATCH="*")
    assert (answer.json()["code"], answer.json().get("line")) == (code, line), answer.json()
    assert list(GroupMember.objects.values_list("device_id", flat=True)) == ["dev-004"]
    assert DeviceGroup.objects.get(pk="pilot").rev == 2


def test_a_list_may_be_larger_than_other_bodies(call: Caller, fleet: World) -> None:
    made(call, "pilot", kind="static")
    data = b"\n" * (2 * 1024 * 1024) + b"dev-001\n"
    answer = call.send("PUT", "/groups/pilot/members", data, CSV, IF_MATCH="*")
    assert answer.json() == {"members": 1, "added": 1, "removed": 0}


def test_a_dynamic_group_is_its_query(call: Caller, fleet: World) -> None:
    Device.objects.filter(pk__startswith="gate").update(tags=["line-2"])
    made(call, "line", kind="dynamic", q=" tag==line-2 ")
    assert call("GET", "/groups/line").json()["count"] == 2
    Device.objects.filter(pk="dev-001").update(tags=["line-2"])
    assert call("GET", "/groups/line/members").json()["items"][0]["id"] == "dev-001"
    answer = call("PATCH", "/groups/line", {"q": "class==host-b"}, IF_MATCH='"1"')
    assert (answer.json()["q"], answer["ETag"]) == ("class==host-b", '"2"')
    assert call("PATCH", "/groups/line", {"q": "id==a"}, IF_MATCH='"1"').json()["code"] == "stale"
    refused = call("PUT", "/groups/line/members", {"devices": []}, IF_MATCH='"2"')
    assert (refused.status_code, refused.json()["code"]) == (409, "immutable")
    preview = call("POST", "/groups:preview", {"q": "group==line;id==gate-001"}).json()
    assert preview == {"count": 1, "sample": ["gate-001"], "classes": {"host-b": 1}}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "x", "kind": "dynamic"}, 400, "query_syntax"),
        ({"name": "x", "kind": "dynamic", "q": "nope==1"}, 400, "query_unknown_field"),
        ({"name": "x", "kind": "dynamic", "q": "group==nowhere"}, 400, "query_unknown_field"),
        ({"name": "x", "kind": "dynamic", "q": "group==line"}, 400, "query_unknown_field"),
        ({"name": "x", "kind": "static", "q": "id==a"}, 422, "validation"),
        ({"name": "X y", "kind": "static"}, 422, "validation"),
        ({"name": "x", "kind": "magic"}, 422, "validation"),
        ({"name": "line", "kind": "static"}, 409, "duplicate"),
        ({"name": "x", "kind": "static", "description": "a\nb"}, 422, "validation"),
    ],
)
def test_a_group_that_cannot_be_is_refused(
    call: Caller, fleet: World, body: object, status: int, code: str
) -> None:
    made(call, "line", kind="dynamic", q="id==*")
    answer = call("POST", "/groups", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.json()
    assert DeviceGroup.objects.count() == 1


def test_a_group_whose_query_broke_says_so_wherever_it_is_asked(call: Caller, fleet: World) -> None:
    made(call, "line", kind="dynamic", q="id==*")
    DeviceGroup.objects.update(q="was_a_field==1")
    for path in ("/groups/line", "/groups/line/members", "/devices?q=group==line"):
        answer = call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (422, "group_query_invalid")
        assert answer.json()["position"] == 0
    assert call("GET", "/groups").json()["items"][0]["q"] == "was_a_field==1", "still listed, to be mended"


def test_a_group_that_a_stored_query_names_stays(call: Caller, fleet: World) -> None:
    made(call, "pilot", kind="static")
    made(call, "others", kind="dynamic", q="group!=pilot;class==host-a")
    answer = call("DELETE", "/groups/pilot", IF_MATCH="*")
    assert (answer.status_code, answer.json()["code"]) == (409, "in_use")
    assert call("DELETE", "/groups/others").json()["code"] == "if_match_required"
    assert call("DELETE", "/groups/others", IF_MATCH='"1"').status_code == 204
    assert call("DELETE", "/groups/pilot", IF_MATCH='"1"').status_code == 204
    assert not DeviceGroup.objects.exists()
    assert call("GET", "/groups/pilot").status_code == 404


def test_a_rollout_takes_groups_and_a_query(call: Caller, fleet: World) -> None:
    made(call, "pilot", kind="static")
    call("PUT", "/groups/pilot/members", {"devices": ["dev-001", "dev-002", "gate-001"]}, IF_MATCH="*")
    manifest = fleet.manifest()
    body = {
        "name": "n", "model": "kws", "version": manifest.version.version,
        "target": {"groups": ["pilot"], "q": "id!=dev-002"},
        "plan": {"waves": [{"percent": 100}]},
    }  # fmt: skip
    preview = call("POST", "/rollouts:preview", body).json()
    assert (preview["eligible"], preview["sample"], preview["skipped"]) == (
        1,
        ["dev-001"],
        {"target_class": 1},
    )
    body["target"]["q"] = "id=="
    answer = call("POST", "/rollouts", body)
    assert (answer.status_code, answer.json()["code"], answer.json()["position"]) == (400, "query_syntax", 4)
    assert answer.json()["errors"][0]["pointer"] == "/target/q"
    body["target"] = {"groups": ["nope"]}
    assert call("POST", "/rollouts", body).json()["code"] == "unknown_group"


def test_lists_cost_the_same_with_many_rows(call: Caller, fleet: World) -> None:
    made(call, "line", kind="dynamic", q="class==host-a")
    costs = []
    for n in (1, 60):
        DeviceGroup.objects.bulk_create(
            DeviceGroup(name=f"g-{n}-{i}", kind="static", created_at=fleet.now, changed_at=fleet.now)
            for i in range(n)
        )
        fleet.add(n, prefix=f"more-{n}")
        for path in ("/groups", "/groups/line", "/groups/line/members?total=true", "/devices?q=group==line"):
            with CaptureQueriesContext(connection) as seen:
                assert call("GET", path).status_code == 200
            costs.append(len(seen))
    assert costs[:4] == costs[4:]
    assert max(costs) <= 8
