"""The list of refused messages over REST."""

from typing import Any

import pytest

from fleet.telemetry import dead
from fleet.telemetry.dead import Quota, Refused
from tests.api.conftest import Caller, clock

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def letters() -> None:
    def one(device: str, code: str) -> Refused:
        return Refused(device, f"f1/dev/{device}/telemetry", code, "said so", b"abc")

    given = [
        one("a", "mac_bad"),
        one("b", "range"),
        one("a", "range"),
        Refused("", "junk", "topic_bad", "", b""),
    ]
    dead.record(given, slot=2, now=clock(), quota=Quota())


def codes(call: Caller, query: str = "") -> list[tuple[Any, str]]:
    return [
        (one["device"], one["code"]) for one in call("GET", f"/telemetry/dead-letters{query}").json()["items"]
    ]


def test_refused_messages_are_listed_newest_first_without_their_bytes(call: Caller) -> None:
    found = call("GET", "/telemetry/dead-letters?total=true").json()
    assert found["total"] == 4
    assert codes(call) == [(None, "topic_bad"), ("a", "range"), ("b", "range"), ("a", "mac_bad")]
    last = found["items"][-1]
    assert (last["topic"], last["detail"], last["size_bytes"], last["slot"]) == (
        "f1/dev/a/telemetry", "said so", 3, 2,
    )  # fmt: skip
    assert "payload" not in last


def test_they_are_narrowed_by_code_and_device_and_paged(call: Caller) -> None:
    assert codes(call, "?code=range") == [("a", "range"), ("b", "range")]
    assert codes(call, "?code=range&device=b") == [("b", "range")]
    first = call("GET", "/telemetry/dead-letters?limit=3").json()
    assert codes(call, f"?limit=3&cursor={first['next']}") == [("a", "mac_bad")]


def test_a_code_that_nothing_is_refused_with_is_422(call: Caller) -> None:
    refused = call("GET", "/telemetry/dead-letters?code=tea")
    assert (refused.status_code, refused.json()["code"]) == (422, "validation")
