"""Devices, their banks by name, timeline, telemetry, configuration; device classes."""

from datetime import timedelta
from typing import Any

import pytest

from fleet.devices.models import Device, DeviceEvent
from ota.models import DesiredState
from tests.api.conftest import Caller, clock
from tests.ota.world import FIRST_PLAN, World

pytestmark = pytest.mark.django_db


def test_a_device_shows_its_two_banks_by_model_and_version(call: Caller, world: World) -> None:
    world.add(2)
    first, second = world.manifest(), world.manifest()
    for manifest in (first, second):
        world.run(world.started(manifest, FIRST_PLAN), until={"completed"})
    device = call("GET", "/devices/dev-001").json()
    assert (device["id"], device["class"], device["presence"]) == ("dev-001", "host-a", "online")
    assert (device["firmware"], device["chip"], device["is_stale"]) == ("1.0.0", "host", False)
    assert device["last_seen_at"].endswith("Z")
    (slot,) = device["slots"]
    assert (slot["slot"], slot["state"], slot["code"], slot["have"], slot["total"]) == (
        0, "confirmed", "", 8, 8,
    )  # fmt: skip
    assert slot["run"] | {"mid": second.mid, "model": "kws", "version": second.version.version} == slot["run"]
    assert slot["other"] | {"mid": first.mid, "version": first.version.version} == slot["other"]
    assert call("GET", "/devices").json()["items"][0] == device


def test_an_unknown_digest_has_no_name(call: Caller, world: World) -> None:
    (device,) = world.add(1)
    device.run = "ab" * 32
    world.send(device)
    (slot,) = call("GET", "/devices/dev-001").json()["slots"]
    assert slot["run"] | {"mid": "ab" * 8, "model": None, "version": None} == slot["run"]
    assert slot["other"] is None


def test_the_list_is_searched_filtered_and_counted(call: Caller, world: World) -> None:
    world.add(3)
    world.add(2, "host-b", prefix="gate")
    Device.objects.filter(id="dev-002").update(presence="offline")
    found = {
        query: [item["id"] for item in call("GET", f"/devices?{query}").json()["items"]]
        for query in ("search=gate", "search=002", "class=host-a&presence=online", "class=none")
    }
    assert found == {
        "search=gate": ["gate-001", "gate-002"],
        "search=002": ["dev-002", "gate-002"],
        "class=host-a&presence=online": ["dev-001", "dev-003"],
        "class=none": [],
    }
    page = call("GET", "/devices?class=host-a&limit=2&total=true").json()
    assert (page["total"], len(page["items"]), bool(page["next"])) == (3, 2, True)
    assert "total" not in call("GET", "/devices").json()


def test_the_timeline_is_newest_first_and_only_the_devices_own(call: Caller, world: World) -> None:
    world.add(2)
    for number in range(3):
        DeviceEvent.objects.create(device_id="dev-001", at=world.now, kind="note", text=f"n{number}")
    DeviceEvent.objects.create(device_id="dev-002", at=world.now, kind="note", text="other")
    page = call("GET", "/devices/dev-001/events?limit=2").json()
    rest = call("GET", f"/devices/dev-001/events?limit=2&cursor={page['next']}").json()
    assert [item["text"] for item in page["items"] + rest["items"]] == ["n2", "n1", "n0"]
    other = call("GET", f"/devices/dev-002/events?cursor={page['next']}")
    assert other.json()["code"] == "cursor_mismatch"


def test_telemetry_of_one_device(call: Caller, world: World) -> None:
    world.add(1)
    assert call("GET", "/devices/dev-001/telemetry/last").json()["last"] is None
    world.running(world.manifest(), world.devices.values())
    start = world.now
    world.pass_time(60)
    span = f"from={stamp(start)}&to={stamp(world.now + timedelta(seconds=1))}"
    items = call("GET", f"/devices/dev-001/telemetry?{span}").json()["items"]
    assert len(items) == 6
    assert all(item["inferences"] == 40 and 0 <= item["accuracy"] <= 1 for item in items)
    assert call("GET", "/devices/dev-001/telemetry/last").json()["last"]["seq"] == items[-1]["seq"]
    assert call("GET", "/devices/dev-001/telemetry").json()["code"] == "validation"


def test_unknown_devices_are_404_everywhere(call: Caller) -> None:
    for path in ("", "/events", "/telemetry/last", f"/telemetry?from={stamp(clock())}&to={stamp(clock())}"):
        assert call("GET", f"/devices/none{path}").status_code == 404


def test_configuration_goes_to_the_devices_named(call: Caller, world: World) -> None:
    world.add(2)
    world.add(1, "host-b", prefix="gate")
    before = counters()
    answer = call("POST", "/devices:config", {"classes": ["host-a"], "config": {"heartbeat_s": 60}})
    assert answer.json() == {"devices": 2}
    after = counters()
    assert after["dev-001"] > before["dev-001"]
    assert after["gate-001"] == before["gate-001"]
    assert DesiredState.objects.get(pk="dev-001").config == {"1": 60, "2": 10}
    body = {"devices": ["gate-001"], "config": {"window_s": None, "anomaly_threshold": 0}}
    assert call("POST", "/devices:config", body).json() == {"devices": 1}
    assert DesiredState.objects.get(pk="gate-001").config == {"4": 0}, "null: the device's own default again"
    assert call("POST", "/devices:config", {"config": {"period_ms": 500}}).json() == {"devices": 3}
    (newest,) = call("GET", "/audit?verb=config.set&limit=1").json()["items"]
    assert newest["after"] == {"config": {"3": 500}, "devices": 3}
    assert newest["actor"]["kind"] == "token"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"config": {}}, "validation"),
        ({"config": {"heartbeat_s": 0}}, "validation"),
        ({"config": {"heartbeat_s": 86_401}}, "validation"),
        ({"config": {"window_s": 3601}}, "validation"),
        ({"config": {"period_ms": 9}}, "validation"),
        ({"config": {"anomaly_threshold": 2**31}}, "validation"),
        ({"config": {"volume": 11}}, "validation"),
        ({"devices": ["none"], "config": {"window_s": 5}}, "unknown_device"),
        ({"classes": ["none"], "config": {"window_s": 5}}, "unknown_class"),
        ({"devices": [], "config": {"window_s": 5}, "all": True}, "validation"),
    ],
)
def test_configuration_that_cannot_be_is_refused_whole(
    call: Caller, world: World, body: object, code: str
) -> None:
    world.add(1)
    before = counters()
    answer = call("POST", "/devices:config", body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert counters() == before


def test_no_device_is_no_error(call: Caller, world: World) -> None:
    world.add(1)
    assert call("POST", "/devices:config", {"devices": [], "config": {"window_s": 5}}).json() == {
        "devices": 0
    }


def test_device_classes(call: Caller, world: World) -> None:
    names = [item["name"] for item in call("GET", "/device-classes").json()["items"]]
    assert {"host-a", "host-b"} <= set(names)
    assert names == sorted(names)
    one = call("GET", "/device-classes/host-a").json()
    assert (one["arena_bytes"], one["simulated"], len(one["class_id"])) == (98_304, True, 32)
    assert call("GET", "/device-classes/none").status_code == 404


def counters() -> dict[str, int]:
    return dict(DesiredState.objects.values_list("device_id", "counter"))


def stamp(at: object) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"


@pytest.mark.parametrize("value", [False, "10", 1.5])
def test_a_setting_that_is_no_number_is_refused(call: Caller, value: Any) -> None:
    body = {"devices": [], "config": {"anomaly_threshold": value}}
    told = call("POST", "/devices:config", body).json()
    assert (told["code"], told["errors"][0]["pointer"]) == ("validation", "/config/anomaly_threshold")
