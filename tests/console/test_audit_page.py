"""The audit page: filters in the URL, differences, the state of the chain, and nothing that runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from fleet.accounts import audit_checks
from fleet.accounts.audit import SYSTEM, Actor, record
from fleet.accounts.models import AuditCheck, AuditEvent
from fleet.console import paging
from tests.accounts.test_audit_chain import sealed as sealed

pytestmark = pytest.mark.django_db
AsRole = Callable[[str], Client]
OLGA = Actor("user", "olga", request_id="abcdef0123456789", source_ip="192.0.2.7")


def act(verb: str, kind: str, name: str, **more: Any) -> AuditEvent:
    given = {"actor": OLGA, "at": timezone.now(), **more}
    return record(verb=verb, subject_kind=kind, subject_id=name, **given)


def html(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.content[:300]
    return str(answer.content.decode())


def test_only_those_who_may_read_the_trail_see_it(as_role: AsRole) -> None:
    assert 'data-test="nav-audit"' in html(as_role("operator"), "/")
    viewer = as_role("viewer")
    assert 'data-test="nav-audit"' not in html(viewer, "/")
    for path in ("/audit", "/audit/export"):
        assert viewer.get(path).status_code == 403
    assert viewer.post("/audit/check").status_code == 403


def test_a_row_says_what_changed_by_whom_and_leads_to_the_object(as_role: AsRole) -> None:
    act(
        "device.label", "device", "dev-1", before={"tags": ["a"], "same": 1}, after={"tags": ["b"], "same": 1}
    )
    text = re.sub(r"\s+", " ", html(as_role("admin"), "/audit"))
    assert 'href="/devices/dev-1"' in text
    assert (
        'tags: <code class="query">[&quot;a&quot;]</code> → <code class="query">[&quot;b&quot;]</code>'
        in text
    )
    assert "same:" not in text
    assert "192.0.2.7" in text
    assert "request abcdef01" in text


def test_what_others_chose_is_text(as_role: AsRole) -> None:
    bad = "<script>alert(1)</script>"
    act(bad[:64], "device", bad, reason=bad, after={bad: bad}, actor=Actor("device", bad, source_ip=bad))
    act("group.delete", "group", "../devices?x=1&y=<b>")
    text = html(as_role("admin"), "/audit")
    assert bad not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "<b>" not in text


def test_the_filter_is_the_url_and_goes_with_the_exports(as_role: AsRole) -> None:
    act("device.label", "device", "dev-1")
    act("group.create", "group", "pilot", actor=Actor("token", "adam/tfk_1"))
    client = as_role("admin")
    text = html(client, "/audit?actor=adam&verb=group.*&from=2020-01-01T00:00")
    assert "pilot" in text
    assert "dev-1" not in text
    assert 'value="2020-01-01T00:00"' in text
    link = re.search(r'href="([^"]*)" data-test="export-csv"', text)
    assert link is not None
    answer = client.get(link[1].replace("&amp;", "&"))
    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert len(lines) == 2
    assert "pilot" in lines[1]


@pytest.mark.parametrize(
    "query", ["verb=a%20b", "subject_id=x", "from=yesterday", "from=2026-05-02&to=2026-05-01"]
)
def test_a_filter_that_cannot_be_meant_shows_nothing_and_says_why(as_role: AsRole, query: str) -> None:
    act("device.label", "device", "dev-1")
    client = as_role("admin")
    text = html(client, f"/audit?{query}", status=422)
    assert 'data-test="error"' in text
    assert "dev-1" not in text
    assert client.get(f"/audit/export?{query}").status_code == 422


def test_pages_go_on_by_key(as_role: AsRole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE_ROWS", 2)
    for n in range(5):
        act("device.label", "device", f"dev-{n}")
    client, seen, path = as_role("admin"), [], "/audit?verb=device.label"
    while path:
        text = html(client, path)
        seen += re.findall(r'href="/devices/(dev-\d)"', text)
        found = re.search(r'href="([^"]*)" rel="next"', text)
        path = found[1].replace("&amp;", "&") if found else ""
    assert seen == [f"dev-{n}" for n in (4, 3, 2, 1, 0)]


def test_a_check_is_asked_for_and_its_result_stays(as_role: AsRole, sealed: list[AuditEvent]) -> None:
    client = as_role("operator")
    assert 'data-state="none"' in html(client, "/audit")
    assert client.post("/audit/check").url == "/audit"
    assert AuditCheck.objects.get().started_by == "operator-of-test"
    assert 'data-state="running"' in html(client, "/audit")
    audit_checks.go_on(now=timezone.now())
    assert "6 rows under 3 seals" in html(client, "/audit")
    AuditEvent.objects.filter(pk=sealed[1].pk).delete()
    audit_checks.start(actor=SYSTEM, now=timezone.now())
    audit_checks.go_on(now=timezone.now())
    text = html(client, "/audit")
    assert 'data-state="broken"' in text
    assert str(sealed[0].pk) in text
