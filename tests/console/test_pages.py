"""Every page: answers for each role, with rows and without, at a fixed cost, and offers what it may."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleet.console.access import page
from fleet.console.middleware import POLICY
from fleet.devices.models import Device, DeviceSlot
from ota.models import MLModel, Rollout
from tests.console import rows

AsRole = Callable[[str], Client]
LISTS = (
    "/",
    "/devices",
    "/groups",
    "/models",
    "/rollouts",
    "/telemetry",
    "/telemetry/anomalies",
    "/telemetry/compare",
    "/telemetry/drift",
    "/alerts",
    "/alerts/rules",
    "/alerts/silences",
    "/search",
    "/settings",
    "/settings/tokens",
    "/settings/keyboard",
    "/settings/classes",
    "/settings/dead-letters",
    "/settings/broker",
    "/settings/retention",
    "/settings/about",
)
FORMS = (
    *("/upload", "/rollouts/new", "/new-group", "/new-devices"),
    *("/settings/new-class", "/settings/new-webhook"),
)
# Most queries a page may cost, session and user included, whatever the number of rows.
BUDGET = {
    "/": 21,
    "/devices": 11,
    "/devices/dev-001": 17,
    "/models": 9,
    "/models/activity": 12,
    "/models/activity/2.0.0": 19,
    "/models/activity/compare": 6,
    "/models/activity/compare?versions=1.0.0,2.0.0,3.0.0,3.1.0": 18,
    "/new-devices": 7,
    "/rollouts": 10,
    "/telemetry": 12,
    "/telemetry/anomalies": 12,
    "/telemetry/compare": 6,
    "/telemetry/drift": 4,
    "/alerts": 8,
    "/alerts/rules": 5,
    "/alerts/silences": 7,
    "/account": 5,
    "/settings/users": 7,
    "/search?find=dev-": 9,
    "/bulk/devices?of=all&class=host-b": 12,
    "/settings": 3,
    "/settings/tokens": 5,
    "/settings/classes": 5,
    "/settings/webhooks": 5,
    "/settings/dead-letters": 7,
    "/settings/broker": 3,
    "/settings/retention": 5,
    "/settings/about": 3,
    "/audit": 6,
}


def every_page(filled: rows.Filled) -> list[str]:
    rollouts = [str(row.pk) for row in filled.rollouts.values()]
    return [
        *LISTS,
        "/search?find=dev",
        "/devices/dev-000",
        "/devices/dev-033",
        "/devices/dev-079",
        "/models/activity",
        "/models/activity/2.0.0",
        "/models/activity/0.9.0",
        "/models/activity/compare",
        "/models/activity/compare?versions=1.0.0,2.0.0,0.9.0",
        "/telemetry?metric=latency&range=6h",
        "/telemetry?metric=latency-max&range=24h",
        "/telemetry?metric=latency-p95&range=24h",
        "/telemetry?metric=accuracy-golden&range=6h",
        "/telemetry?metric=accuracy-delayed&range=7d",
        "/telemetry?metric=anomalies&range=7d&model=activity",
        "/telemetry?metric=class-mix&range=24h",
        *(f"/rollouts/{pk}" for pk in rollouts),
        *(f"/rollouts/{pk}/jobs" for pk in rollouts),
        *(f"/rollouts/{pk}/live" for pk in rollouts),
    ]


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_every_page_answers_with_rows(role: str, as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role(role)
    for path in every_page(filled):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer["Content-Security-Policy"] == POLICY
        html = answer.content.decode()
        if not path.endswith("/live"):
            assert html.count("<h1") == 1, path
            assert 'href="#content"' in html
            assert 'id="content"' in html
        assert not re.search(r"<[^>]+\sstyle=|<style|<script(?![^>]*src=)|\son[a-z]+=", html), path


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_every_list_says_what_to_do_when_it_is_empty(role: str, as_role: AsRole) -> None:
    client = as_role(role)
    for path in LISTS:
        assert client.get(path).status_code == 200
    assert "devices enrol" in client.get("/").content.decode()
    assert "devices enrol" in client.get("/devices").content.decode()
    assert 'data-test="empty"' in client.get("/models").content.decode()
    assert 'data-test="empty"' in client.get("/rollouts").content.decode()
    assert "No device has sent a window yet" in client.get("/telemetry").content.decode()


def test_the_rollout_form_without_a_signed_version_says_so(as_role: AsRole) -> None:
    assert "No version is signed yet" in as_role("admin").get("/rollouts/new").content.decode()


def test_a_page_costs_as_many_queries_with_many_rows_as_with_few(
    as_role: AsRole, filled: rows.Filled, present: datetime
) -> None:
    client = as_role("admin")
    few = {path: _queries(client, path) for path in BUDGET}
    _more(filled, present)
    for path, most in BUDGET.items():
        n = _queries(client, path)
        assert n == few[path], f"{path}: {few[path]} queries with few rows, {n} with many"
        assert n <= most, f"{path}: {n} queries, at most {most}"


def test_the_live_page_costs_a_bounded_number_of_queries(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("admin")
    assert _queries(client, f"/rollouts/{filled.rollouts['running'].pk}/live") <= 31


def _queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(connection) as seen:
        assert client.get(path).status_code == 200
    return len(seen)


def _more(filled: rows.Filled, present: datetime) -> None:
    """Another 300 devices that run what the fleet runs, and 30 rollouts and lines."""
    more = [
        Device(id=f"more-{n:04d}", device_class_id="host-a", enrolled_at=present, last_seen_at=present)
        for n in range(300)
    ]
    Device.objects.bulk_create(more)
    runs = filled.manifests["2.0.0"].id16
    DeviceSlot.objects.bulk_create(
        DeviceSlot(device=device, slot=0, state="confirmed", run=runs, updated_at=present) for device in more
    )
    MLModel.objects.bulk_create(
        MLModel(name=f"line-{n}", created_at=present, created_by="admin") for n in range(30)
    )
    model = filled.rollouts["completed"]
    Rollout.objects.bulk_create(
        Rollout(
            name=f"more {n}",
            manifest=model.manifest,
            plan=model.plan,
            salt=b"0" * 16,
            state="completed",
            created_by="admin",
            created_at=present - timedelta(days=1),
        )
        for n in range(30)
    )


def test_filters_narrow_the_device_list_and_say_how_many_match(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    html = client.get("/devices?class=host-b&presence=online").content.decode()
    assert "dev-060" in html
    assert "dev-000" not in html
    assert re.search(r"2\d of 80 match", html)
    assert "0 of 80 match" in client.get("/devices?find=nothing").content.decode()
    run = filled.manifests["3.1.0"].id16
    assert "29 of 80 match" in client.get(f"/devices?run={run}").content.decode()
    assert "1 of 80 match" in client.get("/devices?run=none").content.decode()


def test_pages_of_a_list_hold_every_row_once(as_role: AsRole, filled: rows.Filled) -> None:
    client, path, seen = as_role("viewer"), "/devices", []
    for _ in range(5):
        html = client.get(path).content.decode()
        seen += re.findall(r'class="main"><a href="/devices/([^"]+)"', html)
        following = re.search(r'<a href="([^"]+)" rel="next"', html)
        if not following:
            break
        path = following[1].replace("&amp;", "&")
    assert seen == [device.pk for device in filled.devices]


def test_a_page_after_something_that_is_no_key_is_the_first_one(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    for path in ("/rollouts?after=zzz", "/models/activity?after=zzz"):
        assert client.get(path).status_code == 200


def test_names_from_devices_and_people_are_escaped(
    as_role: AsRole, filled: rows.Filled, present: datetime
) -> None:
    evil = "<script>alert(1)</script>"
    Rollout.objects.filter(pk=filled.rollouts["running"].pk).update(name=evil, reason=evil)
    Device.objects.filter(pk="dev-000").update(firmware_version="<b>1</b>")
    client = as_role("viewer")
    for path in ("/", "/rollouts", f"/rollouts/{filled.rollouts['running'].pk}", "/devices/dev-000"):
        html = client.get(path).content.decode()
        assert "<script>alert" not in html
        assert "<b>1</b>" not in html


def test_a_viewer_sees_no_action_and_may_do_none(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    running = filled.rollouts["running"].pk
    actions = (
        'data-test="verb-',
        'data-test="upload"',
        'data-test="new-rollout"',
        'data-test="release"',
        'data-test="roll-out"',
        'data-test="inspect"',
        "Take this version back",
    )
    for path in ("/", "/models", "/rollouts", f"/rollouts/{running}", "/models/activity/2.0.0"):
        html = client.get(path).content.decode()
        for action in actions:
            assert action not in html, f"{action} on {path}"
    for path in FORMS:
        refused = client.get(path)
        assert refused.status_code == 403
        assert "scope_missing" in refused.content.decode()
    posts = [f"/rollouts/{running}/{verb}" for verb in ("pause", "abort", "rollback", "start")]
    posts += [f"/models/activity/2.0.0/{verb}" for verb in ("acknowledge", "release", "inspect", "yank")]
    before = Rollout.objects.get(pk=running).state
    for path in posts:
        assert client.post(path, {"reason": "because"}).status_code == 403, path
    assert Rollout.objects.get(pk=running).state == before


def test_an_admin_sees_the_actions_that_the_state_allows(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("admin")
    html = client.get(f"/rollouts/{filled.rollouts['running'].pk}").content.decode()
    assert re.findall(r'data-test="verb-(\w+)"', html) == ["pause", "abort", "rollback"]
    html = client.get(f"/rollouts/{filled.rollouts['completed'].pk}").content.decode()
    assert re.findall(r'data-test="verb-([\w-]+)"', html) == ["create-revert"]


def test_nobody_gets_in_without_signing_in(db: None) -> None:
    client = Client()
    for path in (*LISTS, *FORMS):
        answer = client.get(path)
        assert answer.status_code == 302
        assert answer["Location"].startswith("/login?next=")
    assert client.get("/", headers={"HX-Request": "true"}).status_code == 401


def test_what_does_not_exist_is_404_in_our_own_page(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("admin")
    nowhere = "00000000-0000-7000-8000-000000000000"
    for path in (
        "/nothing",
        "/devices/nobody",
        "/models/none",
        "/models/activity/9.9.9",
        f"/rollouts/{nowhere}",
        f"/rollouts/{filled.rollouts['running'].pk}/dance",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "There is nothing here" in answer.content.decode()


def test_a_form_without_its_token_is_refused_in_our_own_page(filled: rows.Filled, viewer: object) -> None:
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/login", {"username": "viewer", "password": "pass-viewer-word"})
    assert answer.status_code == 403
    assert "This form has expired" in answer.content.decode()


def test_the_theme_is_a_cookie_that_the_server_renders(as_role: AsRole) -> None:
    client = as_role("viewer")
    assert "data-theme" not in client.get("/").content.decode().split("<body")[0]
    answer = client.post(reverse("console:theme"), {"theme": "dark", "next": "/devices?q=a"})
    assert (answer.status_code, answer["Location"]) == (303, "/devices?q=a")
    assert '<html lang="en" data-theme="dark">' in client.get("/").content.decode()
    answer = client.post(reverse("console:theme"), {"theme": "", "next": "https://elsewhere.example/"})
    assert answer["Location"] == "/"
    assert "data-theme" not in client.get("/").content.decode().split("<body")[0]


def test_a_database_that_does_not_answer_is_a_503_that_promises_nothing_happened(viewer: Any) -> None:
    @page("devices:read")
    def view(request: HttpRequest) -> HttpResponse:
        raise OperationalError("the connection is lost")

    request = RequestFactory().get("/")
    request.user = viewer
    answer = view(request)
    assert answer.status_code == 503
    assert "nothing was changed" in answer.content.decode()
