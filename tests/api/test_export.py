"""Raw telemetry as a stream over REST, from both kinds of server."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.test import AsyncClient

from fleet.telemetry import export, export_jobs, ingest, partitions
from fleet.telemetry.ingest import Delivery
from tests.api.conftest import Caller, clock
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def told(transactional_db: None) -> Iterator[dict[str, str]]:
    """25 windows within the last hour; the range that holds them."""
    start = clock() - timedelta(hours=1)
    ingest.store([Delivery("dev-1", make_batch(start, 25))], slot=0, now=clock())
    yield {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{clock():%Y-%m-%dT%H:%M:%SZ}"}
    with connection.cursor() as cursor:
        for table in partitions.TABLES:
            for name in partitions.existing(table).values():
                cursor.execute(f"DROP TABLE {name}")


def path(**asked: Any) -> str:
    return "/telemetry/export?" + "&".join(f"{name}={value}" for name, value in asked.items())


def test_rows_come_as_lines_with_the_type_that_was_asked_for(call: Caller, told: dict[str, str]) -> None:
    answer = call("GET", path(**told))
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    assert answer["Content-Disposition"] == 'attachment; filename="telemetry-window.ndjson"'
    rows = [json.loads(line) for line in answer.getvalue().splitlines()]
    assert (len(rows), {row["device_id"] for row in rows}) == (25, {"dev-1"})
    answer = call("GET", path(format="csv", **told))
    assert answer["Content-Type"] == "text/csv"
    assert answer.getvalue().count(b"\r\n") == 26


def test_an_asynchronous_server_gets_it_in_parts(
    call: Caller, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FETCH", 10)

    async def parts() -> list[bytes]:
        answer: Any = await AsyncClient().get(
            f"/api/v1{path(**told)}", headers={"Authorization": f"Bearer {call.text}"}
        )
        assert answer.status_code == 200
        assert answer.is_async
        rows: AsyncIterator[bytes] = aiter(answer)
        found = [part async for part in rows]
        answer.close()
        return found

    assert [part.count(b"\n") for part in async_to_sync(parts)()] == [10, 10, 5]


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"kind": "event"}, 400, "unknown_kind"),
        ({"format": "xml"}, 400, "format_unknown"),
        ({"from": "2026-01-01T00:00:00"}, 400, "range_invalid"),
        ({"from": "2020-01-01T00:00:00Z"}, 400, "range_too_wide"),
        ({"where": "version=="}, 400, "query_syntax"),
        ({"from": -40}, 410, "raw_expired"),
        ({"from": "soon"}, 422, "validation"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_the_stream(
    call: Caller, told: dict[str, str], asked: Any, status: int, code: str
) -> None:
    if isinstance(asked.get("from"), int):
        asked = {"from": f"{clock() + timedelta(days=asked['from']):%Y-%m-%dT%H:%M:%SZ}"}
    answer = call("GET", path(**{**told, **asked}))
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.json()
    if code == "raw_expired":
        assert answer.json()["rollup"] == "/api/v1/telemetry:query"
        whole = call("GET", path(**{**told, "from": answer.json()["available_from"]}))
        assert (whole.status_code, whole.getvalue().count(b"\n")) == (200, 25)


def test_too_many_exports_have_their_status(
    call: Caller, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "SLOTS", 0)
    answer = call("GET", path(**told))
    assert (answer.status_code, answer.json()["code"]) == (503, "contended")
    assert answer["Retry-After"]


def test_more_rows_than_a_stream_gives_are_an_operation_with_a_file_at_its_end(
    call: Caller, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = call("GET", path(format="csv", **told)).getvalue()
    monkeypatch.setattr(export, "MOST_ROWS", 24)
    monkeypatch.setattr(export_jobs, "PART_ROWS", 5)
    answer = call("GET", path(format="csv", **told))
    body = answer.json()
    assert (answer.status_code, answer["Location"]) == (202, f"/api/v1/operations/{body['id']}")
    assert (body["kind"], body["state"], body["progress"], body["result"]) == (
        "telemetry.export", "queued", {"done": 0, "total": None}, None,
    )  # fmt: skip
    here = f"/operations/{body['id']}"
    assert call("GET", here).json() == body
    assert call("GET", f"/telemetry/exports/{body['id']}").status_code == 404
    export_jobs.work(now=clock())
    done = call("GET", here).json()
    assert (done["state"], done["progress"], done["problem"]) == (
        "succeeded", {"done": 25, "total": 25}, None,
    )  # fmt: skip
    found = call("GET", done["result"].removeprefix("/api/v1"))
    data = found.getvalue()
    assert sorted(data.splitlines()) == sorted(whole.splitlines())
    assert (found["Content-Type"], found["Content-Length"]) == ("text/csv", str(done["bytes"]))
    refused = call("POST", f"{here}/cancel", {})
    assert (refused.status_code, refused.json()["code"], refused.json()["state"]) == (
        409, "illegal_transition", "succeeded",
    )  # fmt: skip


def test_an_export_is_cancelled_by_whoever_asked_and_by_no_other(
    call: Caller, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MOST_ROWS", 24)
    here = f"/operations/{call('GET', path(**told)).json()['id']}"
    other = call.as_role("operator")
    refused = other("POST", f"{here}/cancel", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    gone = call("POST", f"{here}/cancel", {})
    assert (gone.status_code, gone.json()["state"], gone.json()["result"]) == (200, "cancelled", None)
    assert export_jobs.work(now=clock()) == 0
