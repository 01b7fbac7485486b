"""The API only grows within a version, and each way of breaking it is found."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api import breaking
from tests.api.breaking import CURRENT, RELEASED, breaks, version

Json = dict[str, Any]
PATH = "/api/v1/things/{name}"
OPEN: Json = {"type": "object", "title": "Response", "additionalProperties": True}
"""An answer that lists no fields, as most of the real document."""
BASE: Json = {
    "info": {"version": "1"},
    "paths": {
        PATH: {
            "get": {
                "operationId": "get_thing",
                "security": [{"ApiToken": []}],
                "parameters": [
                    {"in": "path", "name": "name", "required": True, "schema": {"type": "string"}},
                    {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 500}},
                    {
                        "in": "query",
                        "name": "sort",
                        "schema": {
                            "type": "array",
                            "maxItems": 2,
                            "items": {"enum": ["a", "-a"], "type": "string"},
                        },
                    },
                ],
                "responses": {
                    "200": {
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
                    }
                },
            },
            "post": {
                "operationId": "make_thing",
                "parameters": [],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}},
                },
                "responses": {
                    "201": {"content": {"application/json": {"schema": {}}}},
                    "202": {"content": {"application/json": {"schema": OPEN}}},
                },
            },
        }
    },
    "components": {
        "schemas": {
            "Thing": {
                "type": "object",
                "required": ["state"],
                "properties": {
                    "state": {"type": "string", "enum": ["on", "off"]},
                    "size": {"type": "integer"},
                    "parts": {
                        "type": "array",
                        "items": {"type": "object", "properties": {"id": {"type": "string"}}},
                    },
                    "sums": {"type": "object", "additionalProperties": {"type": "integer"}},
                },
            },
            "Body": {
                "type": "object",
                "required": ["kind"],
                "properties": {
                    "kind": {"enum": ["x", "y"], "type": "string"},
                    "note": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]},
                    "share": {"type": "number", "minimum": 0},
                    "tags": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
                    "any": {"type": "array"},
                },
            },
        }
    },
}
Change = Callable[[Json], Any]
CLOSED: Json = {"additionalProperties": False}


def get(document: Json) -> Json:
    return document["paths"][PATH]["get"]


def post(document: Json) -> Json:
    return document["paths"][PATH]["post"]


def thing(document: Json) -> Json:
    return document["components"]["schemas"]["Thing"]


def body(document: Json) -> Json:
    return document["components"]["schemas"]["Body"]


def tags(document: Json) -> Json:
    return body(document)["properties"]["tags"]


def sums(document: Json) -> Json:
    return thing(document)["properties"]["sums"]


def made(document: Json) -> Json:
    return post(document)["responses"]["202"]["content"]["application/json"]


def changed(change: Change) -> Json:
    document = copy.deepcopy(BASE)
    change(document)
    return document


BREAKS: dict[str, Change] = {
    f"GET {PATH} is gone": lambda d: d["paths"][PATH].pop("get"),
    "its name was get_thing": lambda d: get(d).update(operationId="read_thing"),
    "it needs a token now": lambda d: post(d).update(security=[{"ApiToken": []}]),
    "parameter limit is gone": lambda d: get(d)["parameters"].pop(1),
    "parameter limit is required now": lambda d: get(d)["parameters"][1].update(required=True),
    "parameter colour is required now": lambda d: get(d)["parameters"].append(
        {"in": "query", "name": "colour", "required": True, "schema": {}}
    ),
    "parameter limit: maximum is 100 now": lambda d: get(d)["parameters"][1]["schema"].update(maximum=100),
    "parameter limit: minimum is 5 now": lambda d: get(d)["parameters"][1]["schema"].update(minimum=5),
    "parameter limit: integer is not taken any more": lambda d: get(d)["parameters"][1].update(
        schema={"type": "string"}
    ),
    "parameter sort: maxItems is 1 now": lambda d: get(d)["parameters"][2]["schema"].update(maxItems=1),
    "parameter sort/*: the value -a is gone": lambda d: get(d)["parameters"][2]["schema"]["items"][
        "enum"
    ].pop(),
    "parameter sort: explode is True now": lambda d: get(d)["parameters"][2].update(explode=True),
    "parameter name: pattern is ^a now": lambda d: get(d)["parameters"][0]["schema"].update(pattern="^a"),
    "parameter name takes only a, b now": lambda d: get(d)["parameters"][0]["schema"].update(enum=["a", "b"]),
    "a body of application/json is not taken any more": lambda d: post(d)["requestBody"]["content"].clear(),
    "a body is required now": lambda d: get(d).update(requestBody={"required": True, "content": {}}),
    "body/size is required now": lambda d: body(d)["required"].append("size"),
    "body/note is gone": lambda d: body(d)["properties"].pop("note"),
    "body/note: null is not taken any more": lambda d: body(d)["properties"]["note"]["anyOf"].pop(),
    "body/note: maxLength is 3 now": lambda d: body(d)["properties"]["note"]["anyOf"][0].update(maxLength=3),
    "body/kind: the value y is gone": lambda d: body(d)["properties"]["kind"]["enum"].pop(),
    "body/share: number is not taken any more": lambda d: body(d)["properties"]["share"].update(
        type="integer"
    ),
    "body: unknown fields are refused now": lambda d: body(d).update(additionalProperties=False),
    "status 200 is gone": lambda d: get(d)["responses"].pop("200"),
    "answer 200: application/json is gone": lambda d: get(d)["responses"]["200"]["content"].clear(),
    "answer 200/size is gone": lambda d: thing(d)["properties"].pop("size"),
    "answer 200/parts/*/id is gone": lambda d: thing(d)["properties"]["parts"]["items"]["properties"].clear(),
    "answer 200/state is not always there any more": lambda d: thing(d)["required"].clear(),
    "answer 200/state: the value off is gone": lambda d: thing(d)["properties"]["state"]["enum"].pop(),
    "answer 200/size: null can be answered now": lambda d: thing(d)["properties"]["size"].update(
        type=["integer", "null"]
    ),
    "answer 200/size: number can be answered now": lambda d: thing(d)["properties"]["size"].update(
        type="number"
    ),
    "body/any/*: any is not taken any more": lambda d: body(d)["properties"]["any"].update(
        items={"type": "string"}
    ),
    "body/tags: unknown fields are refused now": lambda d: tags(d).update(CLOSED),
    "body/tags/{}: null is not taken any more": lambda d: tags(d)["additionalProperties"].update(
        type="string"
    ),
    "body/tags/colour: null is not taken any more": lambda d: tags(d).update(
        properties={"colour": {"type": "string"}}
    ),
    "body/tags: minProperties is 1 now": lambda d: tags(d).update(minProperties=1),
    "body/{}: any is not taken any more": lambda d: body(d).update(additionalProperties={"type": "string"}),
    "answer 200/parts/*: any can be answered now": lambda d: thing(d)["properties"]["parts"].pop("items"),
    "answer 200/sums: fields without a list are gone": lambda d: sums(d).update(CLOSED),
    "answer 200/sums/{}: any can be answered now": lambda d: sums(d).pop("additionalProperties"),
    "answer 200/sums/{}: number can be answered now": lambda d: sums(d).update(
        additionalProperties={"type": "number"}
    ),
    "answer 200/sums/all: string can be answered now": lambda d: sums(d).update(
        properties={"all": {"type": "string"}}
    ),
    "answer 202: fields without a list are gone": lambda d: made(d)["schema"].update(CLOSED),
    "answer 202: any can be answered now": lambda d: made(d).update(schema={}),
    "answer 202: array can be answered now": lambda d: made(d).update(schema={"type": "array"}),
}
GROWTH: dict[str, Change] = {
    "a path": lambda d: d["paths"].update({"/api/v1/more": {"get": {"responses": {}}}}),
    "a parameter": lambda d: get(d)["parameters"].append({"in": "query", "name": "q", "schema": {}}),
    "a parameter that may be left out": lambda d: get(d)["parameters"][0].update(required=False),
    "a wider limit": lambda d: get(d)["parameters"][1]["schema"].pop("maximum"),
    "an order": lambda d: get(d)["parameters"][2]["schema"]["items"]["enum"].append("b"),
    "an optional field": lambda d: body(d)["properties"].update(more={"type": "string"}),
    "a field that may be left out": lambda d: body(d)["required"].clear(),
    "a field that may be null": lambda d: body(d)["properties"]["kind"].update(type=["string", "null"]),
    "a number where an integer was": lambda d: get(d)["parameters"][1].update(schema={"type": "number"}),
    "a field of an answer": lambda d: thing(d)["properties"].update(more={"type": "string"}),
    "unknown fields that are taken": lambda d: tags(d).update(additionalProperties=True),
    "a field among unknown ones": lambda d: tags(d).update(
        properties={"colour": {"type": ["string", "null", "integer"]}}
    ),
    "a sum by its name": lambda d: sums(d).update(properties={"all": {"type": "integer"}}),
    "an answer that lists its fields": lambda d: made(d)["schema"].update(
        properties={"id": {"type": "string"}}
    ),
    "an answer that is closed to fields that it never had": lambda d: thing(d).update(CLOSED),
    "a state of an answer": lambda d: thing(d)["properties"]["state"]["enum"].append("away"),
    "a status": lambda d: get(d)["responses"].update({"202": {}}),
    "no token needed any more": lambda d: get(d).pop("security"),
    "words": lambda d: get(d).update(summary="x", description="y", deprecated=True),
}


@pytest.mark.parametrize("told", BREAKS)
def test_each_kind_of_break_is_found(told: str) -> None:
    (found,) = breaks(BASE, changed(BREAKS[told]))
    assert found.endswith(told)


def test_alternatives_that_cannot_be_told_apart_are_refused() -> None:
    two = changed(lambda d: get(d)["parameters"][1]["schema"].update(anyOf=[{"type": "string"}] * 2))
    with pytest.raises(ValueError, match="not compared"):
        breaks(two, two)


@pytest.mark.parametrize("name", GROWTH)
def test_growth_is_no_break(name: str) -> None:
    assert changed(GROWTH[name]) != BASE
    assert breaks(BASE, changed(GROWTH[name])) == []


def test_the_api_did_not_break_since_its_release_without_a_step_of_its_version() -> None:
    released, current = json.loads(RELEASED.read_text()), json.loads(CURRENT.read_text())
    found = breaks(released, current)
    assert not found or version(current) != version(released), (breaking.__doc__, found)


def test_a_route_taken_out_of_the_real_document_is_found() -> None:
    released = json.loads(RELEASED.read_text())
    current = copy.deepcopy(released)
    del current["paths"]["/api/v1/devices"]["get"]
    assert breaks(released, current) == ["GET /api/v1/devices is gone"]


def test_a_release_is_refused_while_something_breaks_and_made_with_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released, current = tmp_path / "released.json", tmp_path / "current.json"
    monkeypatch.setattr(breaking, "RELEASED", released)
    monkeypatch.setattr(breaking, "CURRENT", current)
    released.write_text(json.dumps(BASE))
    broken = changed(lambda d: d["paths"][PATH].pop("get"))
    current.write_text(json.dumps(broken))
    assert breaking.main(["release"]) == 1
    assert "is gone" in capsys.readouterr().out
    assert json.loads(released.read_text()) == BASE
    current.write_text(json.dumps(broken | {"info": {"version": "2"}}))
    assert breaking.main(["release"]) == 0
    assert released.read_text() == current.read_text()
