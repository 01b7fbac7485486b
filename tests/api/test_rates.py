"""How often a token may call, and what it is told about it."""

import socket
from typing import Any

import pytest

from fleet import redis_calls
from fleet.api import rates
from tests.api.conftest import Caller
from tests.api.test_access import ask

pytestmark = pytest.mark.django_db


def left(answer: Any) -> int:
    return int(answer["RateLimit"].split(";r=")[1].partition(";")[0])


def test_every_answer_to_a_token_tells_what_is_left(call: Caller) -> None:
    first, second = call("GET", "/devices"), call("GET", "/devices/none")
    assert first["RateLimit-Policy"] == second["RateLimit-Policy"] == '"reads";q=600;w=60'
    assert first["RateLimit"] == '"reads";r=599;t=60'
    assert (second.status_code, left(second)) == (404, 598)
    refused = ask(call.as_role("viewer"), "GET /tokens")
    assert (refused.status_code, left(refused)) == (403, 599), "a refused call counts, for its own token"


def test_reads_writes_and_telemetry_queries_are_counted_apart(call: Caller) -> None:
    assert left(call("GET", "/telemetry/metrics")) == 599
    for path in ("/telemetry/accuracy", "/telemetry/export?kind=window", "/devices/dev-1/telemetry"):
        assert call("GET", path)["RateLimit-Policy"] == '"telemetry-queries";q=60;w=60', path
    assert left(call("POST", "/telemetry:query", {})) == 56
    assert call("POST", "/models", {})["RateLimit"].startswith('"writes";r=119;')
    assert left(call("GET", "/models")) == 598


def test_one_call_too_many_is_refused_with_the_time_to_wait(call: Caller, settings: Any) -> None:
    settings.API_RATES = {**settings.API_RATES, "writes": 2}
    assert [call("POST", "/groups:preview", {"q": "class==a"}).status_code for _ in range(3)] == [
        200,
        200,
        429,
    ]
    refused = call("POST", "/models", {"name": "kws"})
    told = refused.json()
    assert (told["code"], told["policy"], told["limit"]) == ("rate_limited", "writes", 2)
    assert 1 <= int(refused["Retry-After"]) <= 60
    assert refused["RateLimit"] == f'"writes";r=0;t={refused["Retry-After"]}'
    assert call("GET", "/models").json()["items"] == [], "what was refused did nothing, and reads go on"
    assert call.as_role("operator")("POST", "/models", {"name": "kws"}).status_code == 201


def test_a_window_ends(call: Caller, settings: Any, redis_url: str) -> None:
    settings.API_RATES = {**settings.API_RATES, "reads": 1}
    assert [call("GET", "/models").status_code for _ in range(2)] == [200, 429]
    key = f"api:rate:{rates.READS}:{call.token.public_id}"
    assert redis_calls.call(lambda redis: redis.pexpire(key, 0)) is True
    assert call("GET", "/models").status_code == 200


def test_without_redis_nobody_is_refused_and_nothing_is_claimed(call: Caller, settings: Any) -> None:
    with socket.socket() as held:  # a port that nobody listens on
        held.bind(("127.0.0.1", 0))
        settings.REDIS_URL = f"redis://127.0.0.1:{held.getsockname()[1]}/0"
        settings.API_RATES = {**settings.API_RATES, "reads": 1}
        answers = [call("GET", "/models") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert not any("RateLimit" in answer or "RateLimit-Policy" in answer for answer in answers)


def test_a_limit_of_nothing_is_no_limit(call: Caller, settings: Any) -> None:
    settings.API_RATES = {**settings.API_RATES, "reads": 0}
    assert "RateLimit" not in call("GET", "/models")


def test_a_redis_that_does_not_answer_is_asked_once_a_pause() -> None:
    moment, asked = [0.0], []
    link = redis_calls.Link("redis://127.0.0.1:1/0", clock=lambda: moment[0])

    def fail(redis: Any) -> None:
        asked.append(moment[0])
        raise OSError("away")

    for moment[0] in (0.0, 1.0, redis_calls.PAUSE_S, redis_calls.PAUSE_S + 1):
        assert link.call(fail) is None
    assert asked == [0.0, redis_calls.PAUSE_S]
