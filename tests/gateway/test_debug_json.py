"""In debug mode telemetry may come as JSON: it is shown to who asks for it, and counts nowhere."""

import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from django.conf import settings

from fleet.devices.keys import Keyring
from fleet.devices.models import Device
from fleet.gateway.handlers import Measurements
from fleet.gateway.uplink import Reader, Uplink
from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.json_windows import json_of
from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import arrivals, coverage, queries, unproven
from fleet.telemetry.dead import Refused
from fleet.telemetry.models import (
    Boot,
    DeadLetter,
    DeviceDay,
    DeviceLast,
    Minute,
    UnprovenWindow,
    Version,
    Window,
)
from fleet.telemetry.queries import Span
from tests.devices.makers import Board, make_board
from tests.telemetry.batches import MID, make_batch

pytestmark = pytest.mark.django_db
TOPIC = "f1/dev/dev-1/telemetry"


@pytest.fixture
def board(now: datetime) -> Board:
    return make_board("dev-1", now)


def handler(board: Board, *, takes_json: bool = True) -> Measurements:
    return Measurements(Reader(board.installation, Keyring(), takes_json=takes_json), slot=0)


def message(batch: Batch, topic: str = TOPIC) -> Arrived:
    return Arrived(topic, json_of(batch), False, 0, 1)


def test_without_debug_mode_json_is_a_message_without_a_mac(board: Board, now: datetime) -> None:
    handler(board, takes_json=False).handle([message(make_batch(now, 3))], now=now)
    letter = DeadLetter.objects.get()
    assert (letter.code, letter.device_id) == ("mac_missing", "dev-1")
    assert "debug mode" in letter.detail
    assert not UnprovenWindow.objects.exists()


def test_in_debug_mode_it_is_the_same_batch_and_not_authentic(board: Board, now: datetime) -> None:
    batch = make_batch(now, 3)
    reader = Reader(board.installation, Keyring(), takes_json=True)
    found = reader.read(message(batch), now=now)
    assert isinstance(found, Uplink)
    assert (found.content, found.device_id, found.is_authentic) == (batch, "dev-1", False)
    proven = reader.read(board.telemetry(batch), now=now)
    assert isinstance(proven, Uplink)
    assert (proven.content, proven.is_authentic) == (batch, True)


def test_it_counts_nowhere_and_is_shown_to_who_asks(board: Board, now: datetime) -> None:
    start = now - timedelta(minutes=1)
    handler(board).handle([message(make_batch(start, 3, lab_ok=0))], now=now)
    for table in (Window, Minute, DeviceDay, DeviceLast, Version, Boot, DeadLetter):
        assert not table.objects.exists(), table
    (outcome,) = queries.device_outcomes([Span("dev-1", None, start, now)], metric="accuracy", kind="proxy")
    assert (outcome.n, outcome.windows) == (0, 0)
    assert queries.count_reporting(Device.objects.values_list("pk", flat=True), MID, start) == 0
    told = queries.device_answer("dev-1", start, now, now=now)
    assert (told["items"], told["excluded"]) == ([], 3)
    both = queries.device_answer("dev-1", start, now, now=now, include_unauthenticated=True)
    assert [(w["seq"] & 0xFF, w["mid"], w["is_authentic"]) for w in both["items"]] == [
        (n, MID, False) for n in range(3)
    ]
    assert both["excluded"] == 0
    assert Device.objects.get(pk="dev-1").last_seen_at == now


def test_what_is_taken_does_not_make_the_share_of_refused_messages_smaller(
    board: Board, now: datetime
) -> None:
    start = now - timedelta(minutes=1)
    wrong = message(make_batch(start))._replace(payload=b"{windows: 3}")
    genuine = board.telemetry(make_batch(start, 3))
    handler(board).handle([message(make_batch(start, 3)), wrong, genuine], now=now)
    assert arrivals.totals(now - timedelta(minutes=1), now + timedelta(minutes=1)) == (2, 1)


def test_numbers_that_were_used_for_it_are_missing_from_the_boot(board: Board, now: datetime) -> None:
    start = now - timedelta(minutes=1)
    handler(board).handle(
        [message(make_batch(start, 3)), board.telemetry(make_batch(start, 2, first=3))], now=now
    )
    found = coverage.coverage(now=now + timedelta(seconds=1)).total
    assert (found.expected, found.received, found.missing) == (5, 2, 3)


def test_its_device_is_heard_of_as_by_presence_which_has_no_mac_either(board: Board, now: datetime) -> None:
    """The rule `silent` reads when a device was last seen: the guide says so."""
    Device.objects.update(last_seen_at=now - timedelta(hours=3), presence="offline")
    handler(board).handle([message(make_batch(now - timedelta(minutes=1), 3))], now=now)
    device = Device.objects.get(pk="dev-1")
    assert (device.last_seen_at, device.presence) == (now, "online")


def test_it_takes_nothing_from_a_genuine_record_of_its_number(board: Board, now: datetime) -> None:
    start = now - timedelta(minutes=1)
    planted, genuine = make_batch(start, 3, lab_ok=0), make_batch(start, 3, lab_ok=10)
    judge = handler(board)
    judge.handle([message(planted), message(planted)], now=now)
    judge.handle([board.telemetry(genuine), message(planted)], now=now)
    assert list(Window.objects.values_list("lab_ok", flat=True)) == [10] * 3
    assert UnprovenWindow.objects.count() == 3, "each once"
    both = queries.device_answer("dev-1", start, now, now=now, include_unauthenticated=True)["items"]
    assert sorted((w["labels_ok"], w["is_authentic"]) for w in both) == [(0, False)] * 3 + [(10, True)] * 3


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("unknown_device", {"topic": "f1/dev/nobody/telemetry"}),
        ("topic_bad", {"topic": "f1/dev/dev-1/debug"}),
        ("time_range", {"start": timedelta(hours=25)}),
        ("time_range", {"start": timedelta(days=-40)}),
        ("malformed_json", {"payload": b"{windows: 3}"}),
        ("too_large", {"payload": b"{" * 20_000}),
        ("cbor_bad", {"topic": "f1/dev/dev-1/event"}),
    ],
)
def test_the_same_checks_hold(board: Board, now: datetime, code: str, change: dict[str, object]) -> None:
    at = now + change.pop("start", timedelta())  # type: ignore[operator]
    found = Reader(board.installation, Keyring(), takes_json=True).read(
        message(make_batch(at))._replace(**change), now=now
    )
    assert isinstance(found, Refused)
    assert found.code == code


def test_a_retired_device_is_refused(board: Board, now: datetime) -> None:
    Device.objects.filter(pk="dev-1").update(retired_at=now)
    found = Reader(board.installation, Keyring(), takes_json=True).read(message(make_batch(now)), now=now)
    assert isinstance(found, Refused)
    assert found.code == "retired_device"


def test_of_a_device_the_newest_are_kept_for_two_days(
    board: Board, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unproven, "MOST", 4)
    make_board("dev-2", now)
    judge = handler(board)
    judge.handle([message(make_batch(now, 2), "f1/dev/dev-2/telemetry")], now=now)
    for first in (0, 3):
        judge.handle([message(make_batch(now + timedelta(minutes=first), 3, first=first))], now=now)
    kept = UnprovenWindow.objects.filter(device_id="dev-1").order_by("seq").values_list("seq", flat=True)
    assert [seq & 0xFF for seq in kept] == [2, 3, 4, 5]
    assert unproven.forget(now + timedelta(days=2)) == 0
    assert unproven.forget(now + timedelta(days=2, seconds=1)) == 6


def test_production_refuses_the_mode_at_its_start() -> None:
    environment = {**os.environ, "FLEET_PRODUCTION": "1", "FLEET_DEBUG_JSON": "1", "FLEET_SECRET_KEY": "x"}
    for is_refused in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", "import fleet.settings"], cwd=settings.BASE_DIR, env=environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode != 0, "FLEET_DEBUG_JSON" in done.stderr) == (is_refused, is_refused)
        environment.pop("FLEET_DEBUG_JSON", None)
