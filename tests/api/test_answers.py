"""What answers have is not taken away, also where the document does not list it: all that can be read of a
filled installation is held to what a release showed.
"""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.api.answers import RELEASED, fields, gone, release
from tests.api.conftest import Caller, clock
from tests.api.deeds import DEEDS
from tests.api.stage import MATCH, Stage
from tests.api.test_access import SCOPES
from tests.console import rows

STREAMS: Final = ("/stream", "/telemetry/export", "/telemetry/exports/{export_id}", "/audit/export")
"""No JSON."""
MADE: Final = (
    "POST /groups", "POST /alert-rules", "POST /silences", "POST /webhooks", "POST /tokens", "POST /users",
)  # fmt: skip
ASKED: Final[dict[str, dict[str, str]]] = {
    "/devices/{device_id}/telemetry": {},
    "/telemetry/accuracy": {"kind": "delayed"},
    "/telemetry/compare": {
        "metric": "accuracy",
        "kind": "delayed",
        "a": "version==1.0.0",
        "b": "version==2.0.0",
    },
    "/telemetry/drift": {},
    "/telemetry/latency": {},
}
"""What else than a range these are asked."""
Seen = dict[str, set[str]]


@pytest.fixture
def seen(call: Caller, request: pytest.FixtureRequest, settings: Any) -> Seen:
    """The fields of every operation that reads, and of those that make something, by operation."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    settings.API_RATES = dict.fromkeys(settings.API_RATES, 0)
    stage, found = Stage(call, request), {}
    filled = rows.fill(clock())
    for operation in MADE:
        deed = DEEDS[operation](stage)
        found[operation] = set(fields(_read(call, deed.path, deed.body)))
    given = {
        "device_id": filled.devices[0].pk, "model": "activity", "version": "2.0.0", "n": "1",
        "rollout_id": str(filled.rollouts["completed"].pk), "public_id": call.token.public_id,
        "operation_id": DEEDS["POST /operations/{operation_id}/cancel"](stage).path.split("/")[2],
        "alert_id": stage.alert().rpartition("/")[2],
    }  # fmt: skip
    call("PUT", "/models/activity/aliases/stable", {"version": "2.0.0"}, **MATCH)
    for operation in SCOPES:
        method, path = operation.split()
        if method == "GET" and path not in STREAMS:
            found[operation] = set(fields(_read(call, _filled(call, path, given) + _asked(path))))
    return found


def _read(call: Caller, path: str, body: Any = None) -> Any:
    answer = call("GET" if body is None else "POST", path, body)
    assert answer.status_code in (200, 201), (path, answer.content)
    return answer.json()


def _filled(call: Caller, path: str, given: dict[str, str]) -> str:
    """The path with what is given in it; what is not comes from the list that it stands behind."""
    for key in re.findall(r"{(\w+)}", path):
        before = path.partition(f"/{{{key}}}")[0]
        value = given.get(key)
        if value is None:
            first = _read(call, before)["items"][0]
            value = str(first["id"] if key.endswith("_id") else first[key])
        path = path.replace(f"{{{key}}}", value)
    return path


def _asked(path: str) -> str:
    """The query that an operation cannot do without."""
    if path == "/models/{model}/compare":
        return "?versions=1.0.0,2.0.0"
    if path not in ASKED:
        return ""
    end = clock()
    if path == "/telemetry/drift":  # of whole hours
        end = end.replace(minute=0, second=0, microsecond=0)
    start = (end - timedelta(hours=2)).isoformat()
    return "?" + urlencode({"from": start, "to": end.isoformat()} | ASKED[path])


@pytest.mark.django_db
def test_no_field_of_an_answer_went_since_the_release(seen: Seen) -> None:
    found = gone(json.loads(RELEASED.read_text()), seen)
    if not found and os.environ.get("FLEET_RELEASE_ANSWERS"):
        release(seen)
    assert found == []


def test_a_field_that_went_is_found_and_one_that_came_is_growth() -> None:
    before = {"items": [{"id": 1, "slots": {"0": {"run": "a"}}}], "next": None}
    released = {"GET /things": sorted(fields(before))}
    assert released["GET /things"] == [
        "/items", "/items/*/id", "/items/*/slots", "/items/*/slots/*", "/items/*/slots/*/run", "/next",
    ]  # fmt: skip
    after = {"items": [{"id": 1, "slots": {"1": {"state": "b"}}, "more": 2}], "next": None}
    now = {"GET /things": set(fields(after)), "GET /others": {"/id"}}
    assert gone(released, now) == ["GET /things: /items/*/slots/*/run is gone"]
    assert gone(released, {}) == [f"GET /things: {path} is gone" for path in released["GET /things"]]
