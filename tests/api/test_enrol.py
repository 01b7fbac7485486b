"""Enrolment over HTTP, SPEC.md section 10: one-time tokens, repeats, refusals with their statuses."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from fleet.accounts.audit import SYSTEM
from fleet.devices import enrolment
from fleet.devices.models import Device
from ota import keys
from tests.api.conftest import clock

pytestmark = pytest.mark.usefixtures("installation")


@pytest.fixture(autouse=True)
def _password_file(settings: Any, tmp_path: Path) -> None:
    settings.MQTT = {**settings.MQTT, "password_file": str(tmp_path / "passwords"), "pid_file": "", "ca": ""}


def body(**given: Any) -> dict[str, Any]:
    made = enrolment.create_tokens("host-a", ["dev-1"], actor=SYSTEM, now=clock())
    said = {"token": made[0], "device_id": "dev-1", "class": "host-a", "chip": "host", "firmware": "1.0.0"}
    return said | given


def send(client: Client, said: Any) -> Any:
    return client.post("/api/v1/enrol", said, content_type="application/json")


def test_a_device_gets_everything_it_needs_once(client: Client, tmp_path: Path) -> None:
    answer = send(client, body())
    assert answer.status_code == 201
    given = answer.json()
    anchor = keys.root_anchor()
    assert given["roots"] == [root.hex() for root in anchor.roots]
    assert (given["root_threshold"], given["least_trust_version"]) == (anchor.threshold, anchor.least_version)
    assert given["broker"]["username"] == "dev-1"
    assert len(bytes.fromhex(given["mac_key"])) == 32
    assert (tmp_path / "passwords").read_text().startswith("dev-1:")
    assert Device.objects.get().firmware_version == "1.0.0"


def test_a_lost_answer_is_repeated_another_request_is_not(client: Client) -> None:
    said = body()
    assert send(client, said).json() == send(client, said).json()
    answer = send(client, said | {"firmware": "1.0.1"})
    assert (answer.status_code, answer.json()["code"]) == (409, "token_used")


@pytest.mark.parametrize(
    ("given", "status", "code", "pointer"),
    [
        ({"token": "tfe_unknown"}, 404, "token_unknown", None),
        ({"class": "host-b"}, 422, "validation", "/class"),
        ({"class": "none"}, 422, "unknown_class", None),
        ({"chip": "esp32"}, 422, "validation", "/chip"),
        ({"device_id": "dev-2"}, 422, "validation", "/device_id"),
        ({"device_id": "Dev 1"}, 422, "validation", "/device_id"),
        ({"firmware": ""}, 422, "validation", "/firmware"),
        ({"firmware": "1\n0"}, 422, "validation", "/firmware"),
        ({"token": "x" * 129}, 422, "validation", "/token"),
        ({"serial": 7}, 422, "validation", "/serial"),
        ({"chip": None}, 422, "validation", "/chip"),
    ],
)
def test_what_is_wrong_is_named(
    client: Client, given: Any, status: int, code: str, pointer: str | None
) -> None:
    answer = send(client, body(**given))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if pointer is not None:
        assert [entry["pointer"] for entry in answer.json()["errors"]] == [pointer]
    assert not Device.objects.exists()


def test_a_token_expires(client: Client) -> None:
    past = clock() - timedelta(days=2)
    made = enrolment.create_tokens("host-a", ["dev-1"], actor=SYSTEM, now=past)
    answer = send(client, body(token=made[0]))
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")


def test_an_id_that_is_enrolled_is_taken(client: Client) -> None:
    (free,) = enrolment.create_tokens("host-a", 1, actor=SYSTEM, now=clock())
    assert send(client, body()).status_code == 201
    said = {"token": free, "device_id": "dev-1", "class": "host-a", "chip": "host", "firmware": "1.0.0"}
    answer = send(client, said)
    assert (answer.status_code, answer.json()["code"]) == (409, "device_exists")
    assert send(client, said | {"device_id": "dev-3"}).status_code == 201, "the token stays usable"


def test_without_a_writable_password_file_it_can_be_tried_again(
    client: Client, settings: Any, tmp_path: Path
) -> None:
    said = body()
    right = settings.MQTT
    settings.MQTT = {**right, "password_file": str(tmp_path / "none" / "passwords")}
    answer = send(client, said)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer["Retry-After"]
    settings.MQTT = right
    assert send(client, said).status_code == 201
