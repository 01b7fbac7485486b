"""Alerts in the console: open ones first, evidence in plain words, verbs by role, rules to be read."""

import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client

from fleet.accounts.audit import SYSTEM
from fleet.alerts import evaluation, machine, rules
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert, Rule
from fleet.devices.models import DeviceClass
from ota import rollouts
from ota.models import Job
from tests.alerts.planting import plant_devices, plant_events
from tests.alerts.test_rules_fire import FIRING
from tests.console import rows

AsRole = Callable[[str], Client]
MINUTE = timedelta(minutes=1)
pytestmark = pytest.mark.django_db


def loop(present: datetime, *, devices: int = 2) -> list[Alert]:
    """Devices whose crash loop was just evaluated, one alert each."""
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=present)
    ids = plant_devices(devices, present)
    for one in ids[:2]:
        plant_events(one, present - MINUTE, "boot", 3, "panic")
    evaluation.run(present)
    return list(Alert.objects.order_by("device_id"))


def listed(html: str) -> list[str]:
    return re.findall(r'class="main"><a href="/alerts/([^"]+)"', html)


def test_open_alerts_come_first_and_the_url_holds_the_filter(as_role: AsRole, present: datetime) -> None:
    first, second = loop(present)
    machine.resolve(second, actor=SYSTEM, now=present, reason="done")
    client = as_role("viewer")
    assert listed(client.get("/alerts").content.decode()) == [str(first.pk), str(second.pk)]
    machine.acknowledge(first, actor=SYSTEM, now=present)
    assert listed(client.get("/alerts?state=acknowledged").content.decode()) == [str(first.pk)]
    assert listed(client.get("/alerts?state=resolved").content.decode()) == [str(second.pk)]
    html = client.get("/alerts?state=open").content.decode()
    assert "No alert matches" in html
    assert '<option value="open" selected>' in html
    assert listed(client.get("/alerts?severity=info").content.decode()) == []
    assert len(listed(client.get("/alerts?severity=critical").content.decode())) == 2


def test_the_query_box_selects_alerts_by_their_devices(as_role: AsRole, present: datetime) -> None:
    first, _ = loop(present)
    client = as_role("viewer")
    html = client.get("/alerts", {"q": f"id=={first.device_id}"}).content.decode()
    assert listed(html) == [str(first.pk)]
    wrong = client.get("/alerts?q=idd==a")
    assert (wrong.status_code, listed(wrong.content.decode())) == (422, [])
    assert "<mark>i</mark>dd==a" in wrong.content.decode()


def test_pages_of_alerts_hold_every_alert_once(
    as_role: AsRole, present: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = loop(present)
    machine.acknowledge(second, actor=SYSTEM, now=present)
    monkeypatch.setattr("fleet.console.paging.PAGE_ROWS", 1)
    client = as_role("viewer")
    html = client.get("/alerts").content.decode()
    assert listed(html) == [str(first.pk)]
    after = re.search(r'href="(/alerts\?after=[^"]+)"', html)
    assert after
    html = client.get(after[1]).content.decode()
    assert listed(html) == [str(second.pk)]
    assert 'rel="next"' not in html


def test_a_walk_over_many_pages_goes_by_state_and_then_by_age(
    as_role: AsRole, present: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = loop(present)
    dice, states = random.Random(2), ("open", "acknowledged", "resolved")
    Alert.objects.bulk_create(
        Alert(
            rule_name=first.rule_name, rule_version=1, kind=first.kind, severity="info", action="none",
            scope_key=f"x:{n}", device_id=first.device_id, state=dice.choice(states),
            first_seen_at=present, last_seen_at=present, evaluated_at=present, evidence=first.evidence,
        )
        for n in range(38)
    )  # fmt: skip
    monkeypatch.setattr("fleet.console.paging.PAGE_ROWS", 7)
    rows = sorted(Alert.objects.order_by("-pk"), key=lambda row: states.index(row.state))
    client, path, seen = as_role("viewer"), "/alerts", []
    while path:
        html = client.get(path).content.decode()
        seen += listed(html)
        following = re.search(r'href="(/alerts\?after=[^"]+)" rel="next"', html)
        path = following[1] if following else ""
    assert seen == [str(row.pk) for row in rows]
    assert listed(client.get("/alerts?after=zzz").content.decode()) == seen[:7]
    kept = b"".join(client.get("/alerts?format=csv").streaming_content).decode()
    assert re.findall(r"^([0-9a-f-]{36}),", kept, re.M) == seen, "a file has the order of the pages"


@pytest.mark.parametrize("kind", sorted(FIRING))
def test_an_alert_of_each_kind_says_in_words_what_was_seen(
    kind: str, as_role: AsRole, present: datetime
) -> None:
    rules.create("one", kind=kind, actor=SYSTEM, now=present)
    FIRING[kind](present)
    evaluation.run(present)
    client = as_role("viewer")
    row = Alert.objects.get()
    html = client.get(f"/alerts/{row.pk}").content.decode()
    said = re.search(r'data-test="evidence">([^<]+)<', html)
    assert said
    assert re.search(r"\d.*(fires|certain|below)", said[1]), said[1]
    assert "kept no figures" not in said[1]
    assert 'data-test="advice">' in html
    if KINDS[kind].is_system:
        assert f'data-test="alert-subject">{row.evidence["subject"]}<' in html
    else:
        assert f'href="/devices/{row.evidence["devices"][0]}"' in html
    assert "Opened" in html


def test_a_part_of_the_fleet_is_one_line_that_folds_its_devices(as_role: AsRole, present: datetime) -> None:
    rules.create("loops", kind="crash_loop", actor=SYSTEM, now=present)
    for one in plant_devices(6, present):
        plant_events(one, present - MINUTE, "boot", 3, "panic")
    evaluation.run(present)
    parent = Alert.objects.get(device_id="")
    client = as_role("viewer")
    html = client.get("/alerts").content.decode()
    assert listed(html) == [str(parent.pk)]
    page = client.get(f"/alerts/{parent.pk}").content.decode()
    assert "6 of 6 devices" in page
    assert "6 alerts of single devices" in page
    machine.resolve(parent, actor=SYSTEM, now=present, reason="done")
    assert len(listed(client.get("/alerts?state=open").content.decode())) == 6, "nobody speaks for them now"


def test_an_operator_acknowledges_and_resolves_with_a_reason(as_role: AsRole, present: datetime) -> None:
    first, _ = loop(present)
    client, path = as_role("operator"), f"/alerts/{first.pk}"
    answer = client.post(f"{path}/acknowledge", {"note": "on my way"})
    assert (answer.status_code, answer["Location"]) == (303, path)
    html = client.get(path).content.decode()
    assert "operator-of-test looks after it" in html
    assert "on my way" in html
    assert 'data-test="acknowledge"' not in html
    answer = client.post(f"{path}/resolve", {"reason": " "})
    assert answer.status_code == 422
    assert "say why it is resolved" in answer.content.decode().lower()
    assert client.post(f"{path}/resolve", {"reason": "cable"}).status_code == 303
    first.refresh_from_db()
    assert (first.state, first.reason) == ("resolved", "cable")
    late = client.post(f"{path}/acknowledge")
    assert late.status_code == 409
    assert "illegal_transition" in late.content.decode()


@pytest.mark.parametrize("role", ["viewer", "approver"])
def test_who_may_only_read_sees_no_verb_and_may_do_none(
    role: str, as_role: AsRole, present: datetime
) -> None:
    first, _ = loop(present)
    client = as_role(role)
    assert 'data-test="alert-verbs"' not in client.get(f"/alerts/{first.pk}").content.decode()
    for verb in ("acknowledge", "resolve"):
        assert client.post(f"/alerts/{first.pk}/{verb}", {"reason": "because"}).status_code == 403
        assert Client().post(f"/alerts/{first.pk}/{verb}").status_code == 302
    first.refresh_from_db()
    assert first.state == "open"


def test_rules_are_read_with_on_and_off_and_why_one_could_not_be_asked(
    as_role: AsRole, present: datetime
) -> None:
    client = as_role("viewer")
    assert 'data-test="empty"' in client.get("/alerts/rules").content.decode()
    assert "No rule is on" in client.get("/alerts").content.decode()
    rules.ensure_defaults(present)
    Rule.objects.filter(pk="silent").update(is_enabled=False)
    Rule.objects.filter(pk="low-heap").update(problem="query_syntax: x")
    html = client.get("/alerts/rules").content.decode()
    assert html.count('data-state="off"') == 1
    assert html.count('data-state="on"') == Rule.objects.count() - 1
    assert "Could not be asked: query_syntax: x" in html
    assert "16.0 KiB" in html or "16 KiB" in html
    html = client.get("/alerts").content.decode()
    assert f"{Rule.objects.count() - 1} rules are asked each minute" in html
    assert DeviceClass.objects.count() == 0


def test_the_navigation_counts_open_alerts(as_role: AsRole, present: datetime) -> None:
    client = as_role("viewer")
    assert 'data-test="open-alerts"' not in client.get("/devices").content.decode()
    first, _ = loop(present)
    assert 'data-test="open-alerts">2<' in client.get("/devices").content.decode()
    machine.acknowledge(first, actor=SYSTEM, now=present)
    assert 'data-test="open-alerts">1<' in client.get("/devices").content.decode()


def test_a_rollout_paused_by_an_alert_links_to_it_until_a_person_paused_it(
    as_role: AsRole, filled: rows.Filled, present: datetime
) -> None:
    rollout = filled.rollouts["running"]
    job = Job.objects.filter(rollout=rollout, exposed_at__isnull=False, kind="install").first()
    assert job is not None
    rules.create("loops", kind="crash_loop", action="pause", actor=SYSTEM, now=present)
    plant_events(job.device_id, present - MINUTE, "boot", 3, "panic")
    evaluation.run(present)
    client, alert = as_role("admin"), Alert.objects.get()
    path = f"/rollouts/{rollout.pk}"
    assert 'data-test="paused-by"' in (html := client.get(path).content.decode())
    assert f'href="/alerts/{alert.pk}"' in html
    assert f'href="{path}"' in client.get(f"/alerts/{alert.pk}").content.decode()
    rollout.refresh_from_db()
    rollouts.resume(rollout, actor=SYSTEM, now=present)
    assert 'data-test="paused-by"' not in client.get(path).content.decode()
    rollouts.pause(rollout, actor=SYSTEM, now=present, reason="by hand")
    assert 'data-test="paused-by"' not in client.get(path).content.decode()


def test_a_rollout_that_an_alert_paused_says_why_and_waits_for_somebody_to_look(
    as_role: AsRole, filled: rows.Filled, present: datetime
) -> None:
    """Who resumes has said that they know why it stopped."""
    rollout = filled.rollouts["running"]
    job = Job.objects.filter(rollout=rollout, exposed_at__isnull=False, kind="install").first()
    assert job is not None
    rules.create("loops", kind="crash_loop", action="pause", actor=SYSTEM, now=present)
    plant_events(job.device_id, present - MINUTE, "boot", 3, "panic")
    evaluation.run(present)
    client, path = as_role("admin"), f"/rollouts/{rollout.pk}"
    page = client.get(path).content.decode()
    assert "3 boots after an abnormal reset within 1 h" in page
    assert "when somebody has acknowledged the alert" in page
    refused = client.post(f"{path}/resume", {"reason": "go on"})
    assert refused.status_code == 409
    assert "nobody has acknowledged that alert" in refused.content.decode()
    rollout.refresh_from_db()
    assert rollout.state == "paused"
    machine.acknowledge(Alert.objects.get(), actor=SYSTEM, now=present)
    assert client.post(f"{path}/resume", {"reason": "go on"}).status_code == 303
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_an_alert_that_is_not_there_is_404(as_role: AsRole) -> None:
    assert as_role("viewer").get("/alerts/00000000-0000-7000-8000-000000000000").status_code == 404
