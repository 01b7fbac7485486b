"""The query box, groups, and who a rollout is for: what is wrong never selects anything."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fleet.accounts.audit import Actor
from fleet.devices import groups
from fleet.devices.models import Device, DeviceGroup, GroupMember
from ota.models import Rollout
from tests.console import planning, rows

AsRole = Callable[[str], Client]
OLGA = Actor("user", "olga")


def shown(html: str) -> list[str]:
    return re.findall(r'class="main"><a href="/devices/([^"]+)"', html)


def make(
    present: Any, name: str, kind: str = "static", q: str = "", ids: tuple[str, ...] = ()
) -> DeviceGroup:
    group = groups.create(name, kind=kind, q=q, actor=OLGA, now=present)
    if ids:
        groups.set_members(group, ids, actor=OLGA, now=present)
    return group


def test_the_url_holds_the_query_and_the_page_its_devices(as_role: AsRole, filled: rows.Filled) -> None:
    Device.objects.filter(pk__in=["dev-001", "dev-061", "dev-062"]).update(tags=["line-2"])
    client = as_role("viewer")
    html = client.get("/devices?q=tag==line-2").content.decode()
    assert shown(html) == ["dev-001", "dev-061", "dev-062"]
    assert "3 of 80 match" in html
    assert 'value="tag==line-2"' in html
    assert "Save as group" not in html, "a viewer may not"
    html = client.get("/devices?q=tag==line-2&class=host-b&find=62").content.decode()
    assert shown(html) == ["dev-062"]


@pytest.mark.parametrize(
    ("q", "code", "marked"),
    [
        ("clas==a", "query_unknown_field", "<mark>c</mark>las==a"),
        ("id==a;;id==b", "query_syntax", "id==a;<mark>;</mark>id==b"),
        ("(id==a", "query_syntax", "(id==a<mark>‸</mark>"),
        ("id==<b>", "query_syntax", "id==<mark>&lt;</mark>b&gt;"),
        ("group==nowhere", "query_unknown_field", "group==<mark>n</mark>owhere"),
        ("id==" + "a" * 3000, "query_syntax", None),
    ],
)
def test_a_query_that_is_wrong_shows_its_place_and_no_device(
    as_role: AsRole, filled: rows.Filled, q: str, code: str, marked: str | None
) -> None:
    answer = as_role("admin").get("/devices", {"q": q})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert f'data-code="{code}"' in html
    assert shown(html) == []
    assert "0 of 80 match" in html
    assert marked is None or marked in html
    assert "Save as group" not in html


def test_a_filter_is_saved_as_a_group(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("operator")
    html = client.get("/devices?q=id==dev-00*,id==dev-06*&class=host-b").content.decode()
    link = re.search(r'href="(/new-group\?q=[^"]+)"', html)
    assert link
    form = client.get(link[1].replace("&amp;", "&")).content.decode()
    assert "(id==dev-00*,id==dev-06*);class==host-b" in form
    assert '<option value="dynamic" selected>' in form
    body = {"name": "pilot", "kind": "dynamic", "q": "(id==dev-00*,id==dev-06*);class==host-b"}
    answer = client.post("/new-group", {**body, "description": "first desks"})
    assert (answer.status_code, answer["Location"]) == (303, "/groups/pilot")
    html = client.get("/groups/pilot").content.decode()
    assert "10 devices" in html
    assert "10 host-b" in html
    assert client.get("/devices?class=a%3Bb").status_code == 200, "a class that is no value is quoted"


def test_a_group_that_is_refused_keeps_what_was_typed(
    as_role: AsRole, filled: rows.Filled, present: Any
) -> None:
    client = as_role("admin")
    answer = client.post("/new-group", {"name": "pilot", "kind": "dynamic", "q": "tagg==a"})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "<mark>t</mark>agg==a" in html
    assert 'value="pilot"' in html
    make(present, "pilot")
    answer = client.post("/new-group", {"name": "pilot", "kind": "static"})
    assert answer.status_code == 409
    assert 'data-test="error-name"' in answer.content.decode()
    answer = client.post("/new-group", {"name": "Not A Name", "kind": "static"})
    assert (answer.status_code, DeviceGroup.objects.count()) == (422, 1)


def test_members_come_from_a_list_or_a_file_and_one_bad_line_changes_nothing(
    as_role: AsRole, filled: rows.Filled, present: Any
) -> None:
    make(present, "pilot")
    client = as_role("operator")
    answer = client.post("/groups/pilot/members", {"rev": 1, "devices": "dev-001, dev-002\ndev-003"})
    assert answer.status_code == 303
    assert GroupMember.objects.count() == 3
    bad = SimpleUploadedFile("list.csv", b"id\ndev-004\nnobody\n")
    answer = client.post("/groups/pilot/members", {"rev": 2, "file": bad})
    assert answer.status_code == 422
    assert "unknown_device: line 3" in answer.content.decode()
    good = SimpleUploadedFile("list.ndjson", b'{"id": "dev-004"}\n')
    stale = client.post("/groups/pilot/members", {"rev": 1, "file": good})
    assert stale.status_code == 409
    assert GroupMember.objects.count() == 3
    good.seek(0)
    assert client.post("/groups/pilot/members", {"rev": 2, "file": good}).status_code == 303
    assert list(GroupMember.objects.values_list("device_id", flat=True)) == ["dev-004"]
    assert client.post("/groups/pilot/members", {"rev": 3}).status_code == 422
    assert 'data-test="tags"' in (html := client.get("/devices/dev-004").content.decode())
    assert 'href="/groups/pilot"' in html


def test_a_group_is_changed_once_per_revision(as_role: AsRole, filled: rows.Filled, present: Any) -> None:
    make(present, "hosts", "dynamic", "class==host-a")
    client = as_role("admin")
    assert 'name="rev" value="1"' in client.get("/groups/hosts/edit").content.decode()
    assert client.post("/groups/hosts/edit", {"rev": 1, "q": "class==host-b"}).status_code == 303
    assert client.post("/groups/hosts/edit", {"rev": 1, "q": "id==a"}).status_code == 409
    assert client.post("/groups/hosts/edit", {"rev": 2, "q": "id="}).status_code == 422
    assert DeviceGroup.objects.get().q == "class==host-b"


def test_a_broken_group_says_so_and_can_be_mended(as_role: AsRole, filled: rows.Filled, present: Any) -> None:
    make(present, "hosts", "dynamic", "class==host-a")
    DeviceGroup.objects.update(q="class==host-a;was==1")
    client = as_role("admin")
    html = client.get("/groups/hosts").content.decode()
    assert 'data-code="group_query_invalid"' in html
    assert "class==host-a;<mark>w</mark>as==1" in html
    assert shown(html) == []
    assert client.get("/groups").status_code == 200
    answer = client.get("/devices?q=group==hosts")
    assert (answer.status_code, shown(answer.content.decode())) == (422, [])
    assert client.post("/groups/hosts/edit", {"rev": 1, "q": "class==host-a"}).status_code == 303
    n = Device.objects.filter(device_class="host-a").count()
    assert f"{n} devices" in client.get("/groups/hosts").content.decode()


def test_a_group_is_deleted_by_a_form_that_says_what_stays(
    as_role: AsRole, filled: rows.Filled, present: Any
) -> None:
    make(present, "pilot", ids=("dev-001",))
    make(present, "rest", "dynamic", "group!=pilot")
    client = as_role("admin")
    assert "the devices stay" in client.get("/groups/pilot/delete").content.decode()
    assert client.post("/groups/pilot/delete").status_code == 409
    assert client.post("/groups/rest/delete").status_code == 303
    assert client.post("/groups/pilot/delete").status_code == 303
    assert (DeviceGroup.objects.count(), Device.objects.count()) == (0, 80)


def test_a_viewer_reads_groups_and_changes_none(as_role: AsRole, filled: rows.Filled, present: Any) -> None:
    make(present, "pilot", ids=("dev-001",))
    client = as_role("viewer")
    html = client.get("/groups/pilot").content.decode()
    assert shown(html) == ["dev-001"]
    assert not re.search('data-test="(edit-group|delete-group|members-form)"', html)
    for path in ("/new-group", "/groups/pilot/edit", "/groups/pilot/members", "/groups/pilot/delete"):
        assert client.post(path, {"rev": 1, "devices": "dev-002"}).status_code == 403
    assert GroupMember.objects.count() == 1


def test_a_listed_device_that_was_retired_is_no_member_any_more(
    as_role: AsRole, filled: rows.Filled, present: Any
) -> None:
    make(present, "pilot", ids=tuple(f"dev-{n:03d}" for n in range(20)))
    make(present, "empty")
    Device.objects.filter(pk__in=("dev-003", "dev-004", "dev-077")).update(retired_at=present)
    client = as_role("viewer")
    assert groups.member_counts(["pilot", "empty"]) == {"pilot": 18}
    html = client.get("/groups").content.decode()
    assert "18 devices" in html
    assert "0 devices" in html
    html = client.get("/groups/pilot").content.decode()
    assert "18 devices" in html
    assert re.search(r"18\s+host-a", html), "by class"


def test_pages_of_groups_cost_the_same_with_many_rows(
    as_role: AsRole, filled: rows.Filled, present: Any
) -> None:
    make(present, "hosts", "dynamic", "class==host-a")
    client, costs = as_role("admin"), []
    for n in (0, 45):
        for i in range(n):
            make(present, f"many-{i}", ids=("dev-001",))
        for path in ("/groups", "/groups/hosts", "/devices?q=group==hosts"):
            with CaptureQueriesContext(connection) as seen:
                assert client.get(path).status_code == 200
            costs.append(len(seen))
    assert costs[:3] == costs[3:]
    assert max(costs) <= 12


FORM = {
    "name": "to the pilot", "waves": "@dev-005 dev-006, 50%, 100%", "control": "0", "max_in_flight": "50",
    "promote_margin": "3", "halt_margin": "0", "min_pairs": "20", "settle": "1 s", "window": "1 s",
    "soak": "0 s", "max_soak": "1 h", "trial_deadline": "5 min", "on_fail": "halt", "on_inconclusive": "halt",
    "offers_per_minute": "1000",
}  # fmt: skip


def test_the_rollout_form_takes_groups_a_query_and_named_devices(
    as_role: AsRole, filled: rows.Filled, present: Any
) -> None:
    make(present, "pilot", ids=tuple(f"dev-{n:03d}" for n in range(20)))
    Rollout.objects.exclude(state="completed").update(state="completed")  # they hold these devices
    client = as_role("admin")
    said = {**FORM, "manifest": filled.manifests["2.0.0"].pk, "groups": ["pilot"], "q": "id!=dev-000"}
    assert 'data-test="sample"' in planning.preview(client, said, page="waves").content.decode()
    made = planning.made(planning.plan(client, said))
    assert (made.target["groups"], made.target["q"]) == (["pilot"], "id!=dev-000")
    assert made.plan["waves"][0] == {"named": ["dev-005", "dev-006"]}
    page = client.get(f"/rollouts/{made.pk}").content.decode()
    assert "dev-005, dev-006" in page
    assert "@dev-005 dev-006, 50%, 100%" in client.get(planning.path(made, "waves")).content.decode()
    form = client.get(planning.path(made, "who")).content.decode()
    assert re.search(r'value="pilot"[^>]*checked', form)
    assert "id!=dev-000" in form


@pytest.mark.parametrize(
    ("q", "code"),
    [("tagg==a", "query_unknown_field"), ("id==", "query_syntax"), ("group==x", "query_unknown_field")],
)
def test_a_bad_query_in_the_rollout_form_is_beside_its_field(
    as_role: AsRole, filled: rows.Filled, q: str, code: str
) -> None:
    client = as_role("admin")
    said = {**FORM, "waves": "100%", "manifest": filled.manifests["3.1.0"].pk, "q": q}
    row = planning.made(planning.begin(client, said))
    preview = planning.send(client, row, "who", {**said, "do": "preview"}).content.decode()
    assert code in preview
    assert 'data-test="eligible"' not in preview
    answer = planning.send(client, row, "who", said)
    assert answer.status_code == 422
    assert re.search(rf'data-test="error-q">.*{code}', answer.content.decode())
    row.refresh_from_db()
    assert not row.target.get("q")
