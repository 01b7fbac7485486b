"""A one-time token becomes a device once, and only the one who asked first learns its secrets."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from fleet.accounts.models import AuditEvent
from fleet.devices import broker, classes, enrolment, keys
from fleet.devices.enrolment import EnrolmentRequest
from fleet.devices.errors import EnrolmentError
from fleet.devices.installation import ensure_installation, installation_id
from fleet.devices.models import Device, DeviceCredential, DeviceEvent, EnrolmentToken
from fleet.mqtt import broker_files
from fleet.mqtt.codec.cose import mac_kid
from tests.devices.makers import ANCHOR, CONSOLE, make_board, request
from tests.stack.services import private_mosquitto, wait_until


@pytest.fixture
def installed(db: None, now: datetime, settings: Any, tmp_path: Path) -> Path:
    """Classes, an installation and a password file to write."""
    classes.ensure_default_classes(now)
    ensure_installation(now)
    path = tmp_path / "passwords"
    settings.MQTT = {**settings.MQTT, "password_file": str(path), "pid_file": ""}
    return path


def token(now: datetime, ids: Any = 1, **more: Any) -> str:
    return enrolment.create_tokens("host-a", ids, actor=CONSOLE, now=now, **more)[0]


def test_the_answer_is_that_of_the_contract(
    installed: Path, now: datetime, settings: Any, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN")
    settings.MQTT = {**settings.MQTT, "ca": str(ca)}
    settings.MQTT_PUBLIC = {"host": "broker.example", "port": 8883}
    answer = enrolment.enrol(request(token(now)), anchor=ANCHOR, now=now)
    assert set(answer) == {
        "device_id", "installation_id", "broker", "mac_key", "roots", "root_threshold", "least_trust_version",
        "class_id", "class",
    }  # fmt: skip
    assert answer["installation_id"] == installation_id().hex()
    assert set(answer["broker"]) == {"host", "port", "ca_pem", "username", "password"}
    assert (answer["broker"]["host"], answer["broker"]["username"]) == ("broker.example", "dev-1")
    assert (answer["roots"][0], answer["root_threshold"], answer["least_trust_version"]) == ("01" * 32, 2, 1)
    assert answer["class"]["arena_bytes"] == 98_304
    assert answer["class_id"] == classes.get_class("host-a").class_id
    key = bytes.fromhex(answer["mac_key"])
    assert len(key) == 32
    assert keys.Keyring().mac_key("dev-1", mac_kid(key)) == key
    assert keys.Keyring().mac_key("dev-1", b"\0\0\0\0") is None
    assert broker_files.is_secret_of(
        answer["broker"]["password"], broker_files.read_passwords(installed)["dev-1"]
    )


def test_secrets_are_kept_only_sealed_and_bound_to_their_device(installed: Path, now: datetime) -> None:
    text = token(now)
    answer = enrolment.enrol(request(text), anchor=ANCHOR, now=now)
    credential = DeviceCredential.objects.get()
    stored = b"".join(bytes(field) for field in (credential.sealed_mac_key, credential.sealed_broker_secret))
    assert bytes.fromhex(answer["mac_key"]) not in stored
    assert answer["broker"]["password"].encode() not in stored
    assert text not in str(EnrolmentToken.objects.values())
    assert AuditEvent.objects.filter(verb="device.enrol", subject_id="dev-1").count() == 1
    assert DeviceEvent.objects.get().kind == "enrolled"


def test_the_same_request_repeats_its_answer_for_ten_minutes(installed: Path, now: datetime) -> None:
    asked = request(token(now))
    first = enrolment.enrol(asked, anchor=ANCHOR, now=now)
    installed.unlink()  # as if the process had died between commit and write
    assert enrolment.enrol(asked, anchor=ANCHOR, now=now + timedelta(seconds=600)) == first
    assert "dev-1" in broker_files.read_passwords(installed)
    with pytest.raises(EnrolmentError) as caught:
        enrolment.enrol(asked, anchor=ANCHOR, now=now + timedelta(seconds=601))
    assert caught.value.code == "token_used"


def test_another_request_with_a_used_token_learns_nothing(installed: Path, now: datetime) -> None:
    text = token(now)
    enrolment.enrol(request(text), anchor=ANCHOR, now=now)
    for changed in (request(text, "dev-2"), request(text, firmware="9.9.9")):
        with pytest.raises(EnrolmentError) as caught:
            enrolment.enrol(changed, anchor=ANCHOR, now=now)
        assert caught.value.code == "token_used"
    assert Device.objects.count() == 1


@pytest.mark.parametrize(
    ("code", "field", "change"),
    [
        ("token_unknown", "", {"token": "tfe_wrong"}),
        ("unknown_class", "class", {"class": "nothing"}),
        ("validation", "class", {"class": "host-b"}),
        ("validation", "chip", {"chip": "esp32"}),
        ("validation", "device_id", {"device_id": "dev-2"}),
    ],
)
def test_a_wrong_request_leaves_the_token_usable(
    installed: Path, now: datetime, code: str, field: str, change: dict[str, str]
) -> None:
    text = token(now, ["dev-1"])
    with pytest.raises(EnrolmentError) as caught:
        enrolment.enrol(request(**{"token": text, **change}), anchor=ANCHOR, now=now)
    assert (caught.value.code, caught.value.field) == (code, field)
    enrolment.enrol(request(text), anchor=ANCHOR, now=now)


def test_an_expired_token_is_refused(installed: Path, now: datetime) -> None:
    text = token(now, ttl_s=60)
    with pytest.raises(EnrolmentError) as caught:
        enrolment.enrol(request(text), anchor=ANCHOR, now=now + timedelta(seconds=60))
    assert caught.value.code == "token_expired"


def test_a_taken_id_is_refused_and_the_token_stays_usable(installed: Path, now: datetime) -> None:
    enrolment.enrol(request(token(now)), anchor=ANCHOR, now=now)
    other = token(now)
    with pytest.raises(EnrolmentError) as caught:
        enrolment.enrol(request(other), anchor=ANCHOR, now=now)
    assert caught.value.code == "device_exists"
    assert enrolment.enrol(request(other, "dev-2"), anchor=ANCHOR, now=now)["device_id"] == "dev-2"


def test_an_unwritable_password_file_is_said_and_asking_again_finishes(
    installed: Path, now: datetime, settings: Any
) -> None:
    asked = request(token(now))
    settings.MQTT = {**settings.MQTT, "password_file": str(installed / "no" / "folder")}
    with pytest.raises(EnrolmentError) as caught:
        enrolment.enrol(asked, anchor=ANCHOR, now=now)
    assert caught.value.code == "unavailable"
    settings.MQTT = {**settings.MQTT, "password_file": str(installed)}
    enrolment.enrol(asked, anchor=ANCHOR, now=now)
    assert "dev-1" in broker_files.read_passwords(installed)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"token": "t", "device_id": "dev-1", "class": "host-a", "chip": "host"},
        {"token": "t", "device_id": "dev-1", "class": "host-a", "chip": "host", "firmware": 1},
        {"token": "t", "device_id": "dev-1", "class": "host-a", "chip": "host", "firmware": "1", "x": "y"},
        {"token": "t", "device_id": "Dev 1", "class": "host-a", "chip": "host", "firmware": "1"},
        {"token": "t" * 129, "device_id": "dev-1", "class": "host-a", "chip": "host", "firmware": "1"},
        {"token": "t\0", "device_id": "dev-1", "class": "host-a", "chip": "host", "firmware": "1"},
    ],
)
def test_malformed_requests_are_refused(body: Any) -> None:
    with pytest.raises(EnrolmentError) as caught:
        EnrolmentRequest.parse(body)
    assert caught.value.code == "validation"


@pytest.mark.parametrize("ids", [0, [], ["a", "a"], ["A"], 100_001])
def test_tokens_are_made_for_well_formed_ids_only(installed: Path, now: datetime, ids: Any) -> None:
    with pytest.raises(EnrolmentError) as caught:
        enrolment.create_tokens("host-a", ids, actor=CONSOLE, now=now)
    assert caught.value.code == "validation"
    assert EnrolmentToken.objects.count() == 0


def test_a_retired_device_loses_its_line_and_others_keep_theirs(installed: Path, now: datetime) -> None:
    for name in ("dev-1", "dev-2"):
        make_board(name, now)
    Device.objects.filter(pk="dev-1").update(retired_at=now)
    assert broker.sync() is True
    assert broker.sync() is False
    assert list(broker_files.read_passwords(installed)) == ["dev-2"]


@pytest.mark.django_db(transaction=True)
def test_one_token_used_by_many_at_once_makes_one_device(installed: Path, now: datetime) -> None:
    text = token(now)
    answers: list[Any] = []

    def claim(name: str) -> None:
        try:
            answers.append(enrolment.enrol(request(text, name), anchor=ANCHOR, now=now)["device_id"])
        except EnrolmentError as error:
            answers.append(error.code)
        finally:
            connection.close()

    run_all([threading.Thread(target=claim, args=(f"dev-{i % 4}",)) for i in range(8)])
    (winner,) = {answer for answer in answers if answer.startswith("dev-")}
    assert answers.count(winner) == 2  # both that asked for the same thing
    assert answers.count("token_used") == 6
    assert list(Device.objects.values_list("pk", flat=True)) == [winner]


@pytest.fixture
def live_broker(installed: Path, settings: Any, tmp_path: Path) -> Iterator[Any]:
    with private_mosquitto(tmp_path / "broker") as running:
        env = running.env()
        settings.MQTT = {
            **settings.MQTT,
            "password_file": env["FLEET_MQTT_PASSWORD_FILE"],
            "pid_file": env["FLEET_MQTT_PID_FILE"],
        }
        yield running


@pytest.mark.django_db(transaction=True)
def test_sixty_devices_at_once_are_let_in_by_the_broker(live_broker: Any, now: datetime) -> None:
    from fleet.stack.mosquitto import accepts

    ids = [f"dev-{i:02}" for i in range(60)]
    tokens = dict(zip(ids, enrolment.create_tokens("host-a", ids, actor=CONSOLE, now=now), strict=True))
    secrets: dict[str, str] = {}

    def claim(names: list[str]) -> None:
        for name in names:
            answer = enrolment.enrol(request(tokens[name], name), anchor=ANCHOR, now=now)
            secrets[name] = answer["broker"]["password"]
        connection.close()

    run_all([threading.Thread(target=claim, args=(ids[i::12],)) for i in range(12)])
    assert len(set(secrets.values())) == 60
    for name in ids:
        wait_until(
            lambda name=name: accepts(live_broker.port, live_broker.tls.ca, name, secrets[name]),
            what=f"the broker to accept {name}",
        )


def test_no_device_stays_locked_out_by_a_reload_that_the_broker_forgot(
    live_broker: Any, settings: Any
) -> None:
    from fleet.stack.mosquitto import accepts

    path, pid_file = Path(settings.MQTT["password_file"]), Path(settings.MQTT["pid_file"])
    hashed = broker_files.hash_secret("s")
    broker_files.change(path, add={f"fill-{i}": hashed for i in range(3000)}, pid_file=pid_file)
    for round_ in range(20):  # without the repetition, one round in six loses its last device
        names = [f"dev-{round_}-{i}" for i in range(6)]
        for name in names:
            broker_files.change(path, add={name: hashed}, pid_file=pid_file)
        broker.reload_again(pid_file)
        for name in names:
            wait_until(
                lambda name=name: accepts(live_broker.port, live_broker.tls.ca, name, "s"),
                deadline_s=5,
                what=f"the broker to accept {name}",
            )


def test_an_enrolment_plans_two_more_reloads(live_broker: Any, now: datetime) -> None:
    make_board("dev-1", now)

    def planned() -> list[float]:
        threads = threading.enumerate()
        return sorted(thread.interval for thread in threads if isinstance(thread, threading.Timer))

    wait_until(lambda: planned() == [0.25, 1.5], what="two reloads to be planned")


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_nothing_is_enrolled_inside_a_transaction_that_may_be_rolled_back(
    installed: Path, now: datetime
) -> None:
    asked = request(token(now))
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        enrolment.enrol(asked, anchor=ANCHOR, now=now)
    assert not installed.exists()
    assert enrolment.enrol(asked, anchor=ANCHOR, now=now)["device_id"] == "dev-1"
