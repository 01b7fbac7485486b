"""People who are limited to groups of devices: what is outside is not on any page."""

from __future__ import annotations

import pytest
from django.test import Client

from fleet.accounts.models import User
from fleet.devices import groups
from ota.models import Rollout
from tests.console import rows
from tests.console.test_rollout_pages import AsRole
from tests.console.test_second_factor import OPEN, console_paths

pytestmark = pytest.mark.django_db
KNOWS_LIMITS = {
    "devices",
    "device",
    "device-quarantine",
    "device-retire",
    "rollouts",
    "rollout",
    "rollout-live",
}
KNOWS_LIMITS |= {"rollout-jobs", "rollout-verb", "evidence", "telemetry"}
OWN = {"account", "account-password", "sessions-end-others", "reauth", "second-factor"}
OWN |= {"second-factor-begin", "second-factor-remove", "second-factor-codes"}


@pytest.fixture
def limited(as_role: AsRole, filled: rows.Filled) -> Client:
    """An administrator limited to dev-001 and dev-002; the completed rollout is within their group."""
    pilot = groups.create("pilot", kind="static", actor=rows.ADMIN, now=rows.present())
    groups.set_members(pilot, ["dev-001", "dev-002"], actor=rows.ADMIN, now=rows.present())
    client = as_role("admin")
    User.objects.update(group_limit=["pilot"])
    Rollout.objects.filter(pk=filled.rollouts["completed"].pk).update(target={"groups": ["pilot"]})
    return client


def test_every_page_that_does_not_know_limits_is_refused(limited: Client) -> None:
    for name, path in console_paths():
        if name in OPEN | OWN | KNOWS_LIMITS or name == "overview":
            continue
        for method in (limited.get, limited.post):
            answer = method(path)
            assert answer.status_code in (403, 405), path
            if answer.status_code == 403:
                assert "scope_missing" in answer.content.decode(), path
    assert limited.get("/")["Location"] == "/devices"


def test_device_pages_hold_what_is_inside(limited: Client) -> None:
    for path in ("/devices", "/devices?q=id==dev-*", "/devices?find=dev", "/devices?q=id==dev-001"):
        html = limited.get(path).content.decode()
        assert "dev-001" in html
        assert "dev-003" not in html
        assert "of 80" not in html
    html = limited.get("/devices").content.decode()
    for section, is_there in (("devices", True), ("models", False), ("alerts", False), ("overview", False)):
        assert (f'data-test="nav-{section}"' in html) == is_there
    assert limited.get("/devices/dev-001").status_code == 200
    for path in ("/devices/dev-003", "/devices/dev-003/retire"):
        assert limited.get(path).status_code == 404
    for path in ("/devices/dev-003/retire", "/devices/dev-003/quarantine"):
        assert limited.post(path, {"verb": "quarantine", "reason": "why"}).status_code == 404


def test_a_rollout_that_reaches_further_stands_in_the_list_alone(
    limited: Client, filled: rows.Filled
) -> None:
    running, mine = filled.rollouts["running"].pk, filled.rollouts["completed"].pk
    assert f"/rollouts/{running}" in limited.get("/rollouts").content.decode()
    for path in ("", "/live", "/jobs", "/pause", "/rollback"):
        assert limited.get(f"/rollouts/{running}{path}").status_code == 403, path
    assert limited.post(f"/rollouts/{running}/pause", {"reason": "x"}).status_code == 403
    assert Rollout.objects.get(pk=running).state == "running"
    assert limited.get(f"/rollouts/{mine}").status_code == 200
    assert limited.get(f"/rollouts/{mine}/jobs").status_code == 200


def test_telemetry_counts_what_is_inside(limited: Client, as_role: AsRole) -> None:
    def counted(q: str) -> int:
        answer = limited.get(f"/telemetry?metric=accuracy&range=1h&q={q}")
        assert answer.status_code == 200
        return sum(row["point"].n for row in answer.context["rows"])

    mine, other = counted("id==dev-001"), counted("id==dev-003")
    User.objects.update(group_limit=None)
    assert (mine, other) == (counted("id==dev-001"), 0)
    assert counted("id==dev-003") > 0 < mine
