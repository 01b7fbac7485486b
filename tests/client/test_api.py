"""Every typed call of the client is one that the published API describes, with fields it knows."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import fleet.api
from fleet.client import ApiError, TinyFleet, Unreachable

SPEC = json.loads((Path(fleet.api.__file__).parent / "openapi.json").read_text())
HERE = Path(__file__)
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("devices.list", {"q": "tag==a", "device_class": "host-a", "presence": "online",
                      "sort": "-last_seen_at"}),
    ("devices.get", {"device_id": "d/1"}),
    ("devices.events", {"device_id": "d", "sort": "at"}),
    *(("devices.act", {"device_id": "d", "verb": verb, "reason": "why"})
      for verb in ("quarantine", "release", "retire")),
    ("models.list", {"sort": "name"}),
    ("models.create", {"name": "m", "description": "words"}),
    ("models.versions", {"model": "m", "sort": "-size"}),
    ("models.get", {"model": "m", "version": "1+2"}),
    ("models.upload", {"model": "m", "version": "1", "file": HERE, "evaluation": HERE,
                       "declared_accuracy": 0.9, "parent": "0", "notes": "n", "hints": {}}),
    ("models.acknowledge", {"model": "m", "version": "1", "device_class": "c", "reason": "why"}),
    ("models.release", {"model": "m", "version": "1", "slot": 1, "floor": 2}),
    ("models.yank", {"model": "m", "version": "1", "reason": "why"}),
    ("rollouts.list", {"state": "draft", "sort": "name"}),
    ("rollouts.get", {"rollout_id": "r"}),
    ("rollouts.preview", {"name": "n", "model": "m", "version": "1", "plan": {}, "target": {"q": "x"}}),
    ("rollouts.create", {"name": "n", "model": "m", "version": "1", "plan": {}, "slot": 1}),
    *(("rollouts.act", {"rollout_id": "r", "verb": verb, "reason": "w", "dry_run": True, "ack_evidence": "e"})
      for verb in ("submit", "start", "pause", "resume", "abort", "rollback", "retry-failed", "cancel",
                   "reject", "create-revert")),
    ("rollouts.approve", {"rollout_id": "r", "reason": "w", "submission": {
        "manifest_sha256": "a", "plan_digest": "b", "target_digest": "c", "more": 1}}),
    ("rollouts.explain", {"rollout_id": "r", "device_id": "d"}),
    ("rollouts.jobs", {"rollout_id": "r", "state": "failed", "code": "digest", "sort": "device"}),
    ("telemetry.metrics", {}),
    ("telemetry.query", {"metric": "accuracy", "start": "a", "end": "b", "kind": "proxy", "agg": "mean",
                         "group_by": ["version"], "q": "x"}),
    ("tokens.list", {"sort": "last_used_at"}),
    ("tokens.create", {"name": "n", "scopes": ["devices:read"], "days": 3}),
    ("tokens.rotate", {"public_id": "p", "grace_hours": 24}),
    ("tokens.revoke", {"public_id": "p"}),
    ("users.list", {"sort": "-role"}),
    ("users.get", {"name": "u/1"}),
    ("users.invite", {"role": "viewer", "email": "a@example.org", "groups": ["g"]}),
    ("users.change", {"name": "u", "rev": 3,
                      "changes": {"role": "viewer", "is_active": True, "groups": None}}),
    ("users.invitations", {"sort": "expires_at"}),
    ("users.revoke_invitation", {"invitation_id": "i"}),
]  # fmt: skip


@pytest.fixture
def asked() -> list[httpx.Request]:
    """Requests that a client has made."""
    return []


@pytest.fixture
def api(asked: list[httpx.Request]) -> TinyFleet:
    """A client whose requests are kept and answered with an empty page."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"items": [], "next": None})

    made = TinyFleet("https://fleet.example", "tfk_x")
    made.http._http = httpx.Client(base_url=made.http._http.base_url, transport=httpx.MockTransport(answer))
    return made


@pytest.mark.parametrize(("name", "given"), CALLS)
def test_a_call_is_one_that_the_api_describes(
    name: str, given: dict[str, Any], api: TinyFleet, asked: list[httpx.Request]
) -> None:
    part, _, method = name.partition(".")
    answer = getattr(getattr(api, part), method)(**given)
    if isinstance(answer, Iterator):
        assert list(answer) == []
    (request,) = asked
    described = operation(request)
    known = {one["name"] for one in described.get("parameters", []) if one["in"] == "query"}
    assert set(request.url.params) <= known
    content = request.headers.get("Content-Type", "").partition(";")[0]
    if content == "application/json":
        body = json.loads(request.content)
        schema = resolved(described["requestBody"]["content"][content]["schema"])
        assert set(body) <= set(schema["properties"])
        assert set(schema.get("required", ())) <= set(body)
    elif content:
        schema = resolved(described["requestBody"]["content"][content]["schema"])
        assert set(re.findall(rb'; name="(\w+)"', request.content)) <= {
            field.encode() for field in schema["properties"]
        }


@pytest.mark.parametrize("networks", [None, [], ["10.0.0.0/8"]])
def test_a_list_of_no_networks_is_not_a_token_for_everywhere(
    networks: list[str] | None, api: TinyFleet, asked: list[httpx.Request]
) -> None:
    api.tokens.create("n", ["devices:read"], networks=networks)
    assert json.loads(asked[0].content)["networks"] == networks


def test_every_typed_call_is_tried_here() -> None:
    parts = ("devices", "models", "rollouts", "telemetry", "tokens", "users")
    api = TinyFleet("https://fleet.example", "x")
    there = {
        f"{part}.{name}"
        for part in parts
        for name, _ in inspect.getmembers(getattr(api, part), inspect.ismethod)
        if not name.startswith("_")
    }
    assert {name for name, _ in CALLS} == there


def test_a_refusal_carries_code_fields_and_what_is_possible(api: TinyFleet) -> None:
    problem = {
        "code": "illegal_transition",
        "detail": "no",
        "allowed": ["pause"],
        "errors": [{"pointer": "/a"}],
    }
    answers(api, httpx.Response(409, json=problem))
    with pytest.raises(ApiError) as caught:
        api.rollouts.act("r", "start")
    assert (caught.value.status, caught.value.code, caught.value.errors) == (
        409, "illegal_transition", [{"pointer": "/a"}],
    )  # fmt: skip
    assert caught.value.problem["allowed"] == ["pause"]


@pytest.mark.parametrize("status", [429, 503])
def test_what_was_not_done_is_asked_again_with_the_same_key(api: TinyFleet, status: int) -> None:
    later = httpx.Response(status, headers={"Retry-After": "0"})
    keys = answers(api, later, later, httpx.Response(200, json={"id": "r"}))
    assert api.rollouts.act("r", "start") == {"id": "r"}
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_it_does_not_ask_for_ever(api: TinyFleet) -> None:
    keys = answers(api, *[httpx.Response(503, headers={"Retry-After": "0"}, text="down")] * 9)
    with pytest.raises(ApiError) as caught:
        api.devices.get("d")
    assert (caught.value.status, len(keys)) == (503, 4)


def test_nobody_listening_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        TinyFleet("http://127.0.0.1:9", "x").devices.get("d")


def answers(api: TinyFleet, *given: httpx.Response) -> list[str]:
    """Answer so, one after the other; returns the idempotency keys of the requests."""
    left, keys = list(given), []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers.get("Idempotency-Key", ""))
        return left.pop(0)

    api.http._http = httpx.Client(base_url="https://fleet.example", transport=httpx.MockTransport(answer))
    return keys


def operation(request: httpx.Request) -> dict[str, Any]:
    """What the document says of a request's path and method."""
    path = request.url.raw_path.decode().partition("?")[0]
    exact = [known for known in SPEC["paths"] if known == path]
    fitting = exact or [
        known for known in SPEC["paths"] if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path)
    ]
    found = [SPEC["paths"][known] for known in fitting if request.method.lower() in SPEC["paths"][known]]
    assert found, f"{request.method} {path} is not described"
    return dict(found[0][request.method.lower()])


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its reference."""
    while "$ref" in schema:
        schema = SPEC["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema
