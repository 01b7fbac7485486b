"""The audit trail over REST: filters, pages, the chain, exports."""

import csv
import io
import json
from typing import Any

import pytest

from fleet.accounts import audit_chain, audit_checks
from fleet.accounts.audit import SYSTEM, Actor, record
from fleet.accounts.models import AuditEvent
from fleet.api.routes import audit as audit_routes
from tests.accounts.test_audit_chain import NOW
from tests.accounts.test_audit_chain import sealed as sealed
from tests.api.conftest import Caller, clock

pytestmark = pytest.mark.django_db


def act(verb: str, kind: str, name: str, *, who: Actor = SYSTEM, **more: Any) -> AuditEvent:
    return record(actor=who, verb=verb, subject_kind=kind, subject_id=name, at=clock(), **more)


def verbs(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.json()
    return [item["verb"] for item in answer.json()["items"]]


def test_filters_hold_together_and_pages_go_on(call: Caller) -> None:
    for n in range(5):
        act("device.quarantine", "device", f"d{n}", who=Actor("user", "olga"))
        act("device.release", "device", f"d{n}", who=Actor("user", "adam"))
    assert verbs(call("GET", "/audit?actor=olga&verb=device.*")) == ["device.quarantine"] * 5
    assert verbs(call("GET", "/audit?subject_kind=device&subject_id=d3")) == [
        "device.release",
        "device.quarantine",
    ]
    first = call("GET", "/audit?actor=adam&limit=3&total=true").json()
    assert (len(first["items"]), first["total"]) == (3, 5)
    rest = call("GET", f"/audit?actor=adam&limit=3&cursor={first['next']}").json()
    ids = [item["subject"]["id"] for item in first["items"] + rest["items"]]
    assert ids == ["d4", "d3", "d2", "d1", "d0"]
    other = call("GET", f"/audit?actor=olga&limit=3&cursor={first['next']}")
    assert (other.status_code, other.json()["code"]) == (400, "cursor_mismatch")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("verb=rollout%20pause", "/verb"),
        ("subject_id=d1", "/subject_id"),
        ("from=2026-05-02T12:00:00", "/from"),
        ("from=2026-05-02T12:00:00Z&to=2026-05-02T12:00:00Z", "/to"),
        ("from=yesterday", "/from"),
        ("actr=olga", "/actr"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(call: Caller, query: str, pointer: str) -> None:
    for path in ("/audit", "/audit/export"):
        told = call("GET", f"{path}?{query}").json()
        assert (told["code"], told["errors"][0]["pointer"]) == ("validation", pointer)


def test_the_chain_is_compared_a_bounded_number_of_seals_a_call(
    call: Caller, sealed: list[AuditEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_routes, "SEALS", 2)
    first = call("GET", "/audit/verify").json()
    assert (first["seals"], first["rows"], first["next"], first["unsealed"]) == (2, 4, 2, None)
    rest = call("GET", f"/audit/verify?after={first['next']}").json()
    assert (rest["seals"], rest["rows"], rest["next"], rest["broken"]) == (3, 2, None, None)
    assert rest["digest"] == audit_chain.verify().digest
    assert rest["unsealed"] == AuditEvent.objects.count() - 6
    assert rest["last_check"] is None
    assert call("GET", "/audit/verify?after=9").status_code == 404


def test_a_row_that_was_tampered_with_is_named(call: Caller, sealed: list[AuditEvent]) -> None:
    AuditEvent.objects.filter(pk=sealed[2].pk).update(actor="somebody else")
    told = call("GET", "/audit/verify").json()
    assert told["broken"] == {"seal": 2, "what": "altered", "row": str(sealed[2].pk)}
    assert (told["seals"], told["next"], told["unsealed"]) == (1, None, None)
    audit_checks.start(actor=SYSTEM, now=NOW)
    audit_checks.go_on(now=NOW)
    assert call("GET", "/audit/verify").json()["last_check"]["state"] == "broken"


def test_an_export_is_exact_and_ends_where_the_trail_ended(call: Caller) -> None:
    AuditEvent.objects.all().delete()
    made = [act("device.label", "device", f"d{n}", after={"tags": ["ü", n]}) for n in range(3)]
    answer = call("GET", "/audit/export?verb=device.*")
    lines = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
    assert [line["id"] for line in lines] == [str(row.pk) for row in made]
    assert lines == list(audit_chain.export(None, None))
    assert answer["Content-Type"] == "application/x-ndjson"
    assert b"".join(call("GET", "/audit/export?actor=nobody").streaming_content) == b""


def test_a_spreadsheet_runs_nothing_that_a_device_or_a_person_wrote(call: Caller) -> None:
    AuditEvent.objects.all().delete()
    act("device.enrol", "device", "=HYPERLINK(A1)", reason='-1+1, "so"', after={"name": "@x"})
    text = b"".join(call("GET", "/audit/export?format=csv").streaming_content).decode()
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["subject_id"], row["reason"]) == ("'=HYPERLINK(A1)", '\'-1+1, "so"')
    assert json.loads(row["after"]) == {"name": "@x"}
    assert text.splitlines()[0] == ",".join(audit_chain.FIELDS)


def test_a_long_export_comes_in_batches(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.accounts.audit_export.BATCH", 2)
    AuditEvent.objects.all().delete()
    for n in range(5):
        act("device.label", "device", f"d{n}")
    parts = list(call("GET", "/audit/export").streaming_content)
    assert [part.count(b"\n") for part in parts] == [2, 2, 1]
