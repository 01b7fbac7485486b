"""Every error is a problem document with a listed code: paths, methods, sizes, hostile text, our faults."""

import ast
import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from fleet.api.errors import STATUS, status_of
from fleet.api.limits import FORM_BYTES, JSON_BODY_BYTES, limit_of
from fleet.asgi import application
from ota import inventory
from ota.plan import PlanError
from tests.api.conftest import Caller

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[2]
RAISED_FOR_REST = (
    "AccountError",
    "ApiProblem",
    "DeliveryError",
    "DeviceError",
    "ClassError",
    "EnrolmentError",
    "KeysError",
    "KeyFileError",
    "ManifestError",
    "PlanError",
    "QueryError",
    "RegistryError",
    "RolloutError",
    "SealError",
    "TokenError",
    "TrustError",
    "DesiredError",
)


def codes_raised() -> dict[str, set[str]]:
    """Code -> where it is raised, for every error class that reaches the API."""
    found: dict[str, set[str]] = {}
    for package in ("fleet", "ota"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0]
                if name in RAISED_FOR_REST and isinstance(first, ast.Constant):
                    found.setdefault(str(first.value), set()).add(path.name)
    return found


def is_problem(answer: Any, status: int, code: str) -> bool:
    body = answer.json()
    assert answer["Content-Type"] == "application/problem+json"
    assert (answer.status_code, body["code"]) == (status, code)
    assert {"type", "title", "status", "detail", "errors", "request_id"} <= set(body)
    assert body["status"] == status
    assert body["request_id"] == answer["X-Request-Id"]
    return True


def test_every_code_that_is_raised_has_its_status() -> None:
    listed = [code for codes in STATUS.values() for code in codes.split()]
    assert len(listed) == len(set(listed)), "one status per code"
    raised = codes_raised()
    assert len(raised) > 30
    assert {code: sorted(where) for code, where in raised.items() if code not in listed} == {}
    assert status_of("illegal_transition") == 409


@pytest.mark.parametrize("path", ["/nothing", "/devices/", "/models/a/b/c/d", "/", "/devices:reboot"])
def test_unknown_paths_are_problems(client: Client, path: str) -> None:
    for method in ("get", "post", "delete"):
        assert is_problem(getattr(client, method)(f"/api/v1{path}"), 404, "not_found")


def test_a_wrong_method_is_told_which_are_right(call: Caller) -> None:
    answer = call("PUT", "/models", {})
    assert is_problem(answer, 405, "method")
    assert answer.json()["allowed"] == ["GET", "POST"]
    assert answer["Allow"] == "GET, POST"


def test_a_body_over_the_limit_is_refused_by_its_length(call: Caller) -> None:
    answer = call("POST", "/models", {"name": "kws", "description": "x" * JSON_BODY_BYTES})
    assert is_problem(answer, 413, "too_large")
    assert answer.json()["limit"] == JSON_BODY_BYTES


def test_only_uploads_may_be_larger(settings: Any) -> None:
    settings.MODEL_UPLOAD_BYTES, settings.EVALUATION_UPLOAD_BYTES = 5_000_000, 7_000_000
    assert limit_of("/api/v1/devices:config") == JSON_BODY_BYTES
    assert limit_of("/api/v1/telemetry/labels") == 4 * 1024 * 1024
    assert limit_of("/api/v1/models/kws/versions") == 12_000_000 + FORM_BYTES
    assert limit_of("/api/v1/models/kws/versions/1/release") == JSON_BODY_BYTES
    assert limit_of("/upload") == 12_000_000 + FORM_BYTES


@pytest.mark.parametrize("declared", [True, False])
def test_the_server_stops_reading_a_body_over_the_limit(declared: bool) -> None:
    sent: list[Mapping[str, Any]] = []
    reads = 0

    async def endless() -> Mapping[str, Any]:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")] + [(b"content-length", b"99999999999")] * declared
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/models",
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(application(scope, endless, send))
    assert reads == (0 if declared else JSON_BODY_BYTES // 65_536 + 1)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 413
    assert (b"content-type", b"application/problem+json") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "too_large"


@pytest.mark.parametrize(
    "body", ["{", "[" * 100_000, '{"name": "kws"} x', b"\xff\xfe", "", '"text"', "[]", "null"]
)
def test_bodies_that_are_no_object_are_refused(call: Caller, client: Client, body: Any) -> None:
    answer = client.post(
        "/api/v1/models", data=body, content_type="application/json", HTTP_AUTHORIZATION=f"Bearer {call.text}"
    )
    assert answer.json()["code"] in ("malformed_json", "validation")
    assert answer.status_code in (400, 422)
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b", "x" * 70_000])
def test_text_that_cannot_be_stored_is_refused(call: Caller, text: str) -> None:
    for path, body in (
        ("/models", {"name": "kws", "description": text}),
        ("/tokens", {"name": text, "scopes": ["devices:read"]}),
        ("/devices:config", {"devices": [text], "config": {"window_s": 10}}),
        ("/rollouts", {"name": text, "model": "kws", "version": "1", "plan": {"waves": [{text: 1}]}}),
    ):
        answer = call("POST", path, body)
        assert answer.status_code in (404, 422), (path, answer.json())
        assert answer.json()["code"] in ("validation", "unknown_device", "not_found")


@pytest.mark.parametrize(
    "path", ["/devices?search=%00", "/audit?verb=%00", "/models/%00", "/devices/a%00b", "/rollouts?state=%00"]
)
def test_nul_in_an_address_is_no_fault_of_ours(call: Caller, path: str) -> None:
    answer = call("GET", path)
    assert answer.json()["code"] in ("validation", "not_found")


def test_ids_and_limits_that_are_not_well_formed(call: Caller) -> None:
    assert is_problem(call("GET", "/rollouts/not-an-id"), 404, "not_found")
    assert is_problem(call("GET", "/devices?limit=many"), 400, "limit")
    assert is_problem(call("GET", "/devices?total=perhaps"), 422, "validation")


def test_an_unexpected_error_tells_nothing_of_the_inside(
    call: Caller, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.DEBUG = True

    def broken(*args: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(inventory, "names", broken)
    answer = call("GET", "/devices")
    assert is_problem(answer, 500, "internal")
    assert "hunter2" not in answer.content.decode()


def test_a_lost_database_is_unavailable_and_worth_a_retry(
    call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any) -> Any:
        raise OperationalError("server at 10.0.0.7 closed the connection")

    monkeypatch.setattr(inventory, "names", lost)
    answer = call("GET", "/devices")
    assert is_problem(answer, 503, "unavailable")
    assert int(answer["Retry-After"]) > 0
    assert "10.0.0.7" not in answer.content.decode()


def test_an_error_about_a_field_points_at_it(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise PlanError("validation", "waves[1].percent", "rises", "fix it")

    monkeypatch.setattr(inventory, "names", refuse)
    problem = call("GET", "/devices").json()
    assert problem["errors"] == [
        {"pointer": "/plan/waves/1/percent", "code": "validation", "message": "rises"}
    ]
    assert (problem["field"], problem["fix"]) == ("waves[1].percent", "fix it")
