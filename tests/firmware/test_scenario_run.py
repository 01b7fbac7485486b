"""A scenario on real virtual devices: every fault does what it says to its device, and to no other.

The C core, TFLM, Mosquitto with TLS; one new model is offered to all while the faults are on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_firmware.host.scenario import parse
from device_firmware.host.scenario_run import ScenarioRun, table
from fleet.mqtt.codec.names import UpdateState
from tests.firmware.virtual import Backend, Devices, artifact, backend_of, model_bytes, running, until
from tests.stack.services import private_mosquitto

pytestmark = pytest.mark.xdist_group("scenario")
WEEK_S = 604_800
SCENARIO = """
name = "house"
devices = 10
class = "test"
duration_s = 34

[[fault]]
kind = "lost_chunks"
names = ["house-0001"]
ratio = 1
duration_s = 5

[[fault]]
kind = "corrupt_chunks"
names = ["house-0002"]
ratio = 0.7
duration_s = 8

[[fault]]
kind = "flapping_wifi"
names = ["house-0003"]
up_s = 5
down_s = 2

[[fault]]
kind = "low_battery"
names = ["house-0004"]
duration_s = 8

[[fault]]
kind = "low_heap"
names = ["house-0009"]
duration_s = 8
free_bytes = 9000

[[fault]]
kind = "corrupt_flash"
names = ["house-0005"]
start_s = 16
area = "run"
bits = 64

[[fault]]
kind = "crashing_model"
names = ["house-0006"]

[[fault]]
kind = "lying_clock"
names = ["house-0007"]
offset_s = 604_800

[[fault]]
kind = "drifted_sensor"
names = ["house-0007"]
gain = 0

[[fault]]
kind = "power_cut"
names = ["house-0008"]
start_s = 4
tear = "any"

[[fault]]
kind = "slow_flash"
names = ["house-0008"]
ms = 5
"""
GOOD, BETTER = artifact(model_bytes("activity-v1"), 1), artifact(model_bytes("activity-v2"), 2)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Backend, Devices]]:
    """The summary of one run; ten devices had activity 1.0.1 and were offered 1.0.2 a second into it."""
    scenario = parse(SCENARIO)
    names = [f"house-{number:04d}" for number in range(scenario.devices)]
    with (
        private_mosquitto(tmp_path_factory.mktemp("broker")) as broker,
        running(tmp_path_factory.mktemp("devices")) as devices,
        backend_of(broker) as backend,
    ):
        identities = [backend.identity(name) for name in names]
        for name in names:
            backend.want(name, GOOD)
        devices.add(*identities)
        for name in names:
            backend.until_state(name, UpdateState.CONFIRMED, GOOD, deadline_s=90)
        before = {name: devices.status(name) for name in names}
        assert all(not one["restarts"] and not one["acted"] for one in before.values())
        said: list[str] = []
        run = ScenarioRun(devices.folder, scenario, names, run_s=scenario.duration_s, say=said.append)
        driving = threading.Thread(target=run.drive)
        driving.start()
        until(lambda: devices.status("house-0006")["pid"] and said, what="the first line of progress")
        for name in names:
            backend.want(name, BETTER, attempt=2)
        driving.join(90)
        assert not driving.is_alive()
        summary = run.summary()
        (devices.folder / "summary.txt").write_text(table(summary))
        yield summary, backend, devices


def rule(played: tuple[dict[str, Any], Backend, Devices], kind: str) -> dict[str, Any]:
    """The summary of the fault of a kind."""
    found: list[dict[str, Any]] = [row for row in played[0]["faults"] if row["kind"] == kind]
    assert len(found) == 1
    assert found[0]["sent"] == len(found[0]["devices_hit"]) * (2 if kind == "corrupt_flash" else 1)
    assert found[0]["unsent"] == 0
    return found[0]


Played = tuple[dict[str, Any], Backend, Devices]
RUNS_BETTER = {"activity 1.0.2": 1}


def test_the_device_without_a_fault_notices_nothing(played: Played) -> None:
    healthy = played[0]["without_faults"]
    assert healthy["devices"] == 1
    assert healthy["ends"] == {"confirmed(none)": 1}
    assert healthy["models"] == RUNS_BETTER
    assert healthy["restarts"] == healthy["acted"] == {}
    assert played[0]["devices_with_faults"] == 9


@pytest.mark.parametrize(
    ("kind", "acted"), [("lost_chunks", "lose"), ("corrupt_chunks", "corrupt"), ("flapping_wifi", "wifi")]
)
def test_a_bad_network_costs_time_and_nothing_else(played: Played, kind: str, acted: str) -> None:
    row = rule(played, kind)
    assert row["acted"][acted] > 0
    assert row["ends"] == {"confirmed(none)": 1}
    assert row["models"] == RUNS_BETTER
    assert row["restarts"] == {}
    assert (row["dropped_chunks"] > 0) == (kind == "corrupt_chunks"), (
        "damaged chunks are dropped by their leaf"
    )


def test_a_low_battery_defers_the_switch_until_it_is_charged(played: Played) -> None:
    row = rule(played, "low_battery")
    assert row["seen"]["deferred(low_power)"] >= 1
    assert row["acted"]["battery"] >= 1
    assert row["models"] == RUNS_BETTER


def test_a_board_short_of_memory_waits_too_and_reports_it(played: Played) -> None:
    row = rule(played, "low_heap")
    assert row["seen"]["deferred(low_heap)"] >= 1
    assert row["models"] == RUNS_BETTER
    assert 9000 in {report.free_heap_bytes for report in played[1].reports("house-0009")}


def test_rotten_flash_is_found_at_the_next_start_and_fetched_again(played: Played) -> None:
    row = rule(played, "corrupt_flash")
    assert row["acted"]["rot"] == 64
    assert row["restarts"] == {"power": 1}
    assert row["seen"]["confirmed(none)"] >= 2, "confirmed, found broken, confirmed again"
    assert row["models"] == RUNS_BETTER


def test_a_crashing_candidate_takes_down_one_device_twice_and_is_gone(played: Played) -> None:
    row = rule(played, "crashing_model")
    assert row["ends"] == {"reverted(crash_loop)": 1}
    assert row["restarts"] == {"panic": 2}
    assert row["models"] == {"activity 1.0.1": 1}


def test_a_lying_clock_and_a_dead_sensor_are_seen_by_the_backend(played: Played) -> None:
    summary, backend, _ = played
    assert rule(played, "lying_clock")["acted"] == {"clock": 1}
    assert rule(played, "drifted_sensor")["acted"]["sensor"] > 0
    told = [report.unix_s for report in backend.reports("house-0007")]
    assert max(told) > time.time() + WEEK_S - 600
    others = [report.unix_s for report in backend.reports("house-0000")]
    assert max(others) < time.time() + 600
    scores = {w.top for batch in backend.batches("house-0007")[-3:] for w in batch.windows}
    assert len(scores) == 1, "with gain 0 every window looks the same"
    assert summary["all"]["devices"] == 10


def test_a_power_cut_on_slow_flash_ends_with_the_new_model(played: Played) -> None:
    row = rule(played, "power_cut")
    assert row["restarts"] == {"power": 1}
    assert row["models"] == RUNS_BETTER
    assert rule(played, "slow_flash")["acted"]["slow_flash"] > 0


def test_sums_are_conserved_and_the_table_names_every_fault(played: Played) -> None:
    summary, _, devices = played
    assert sum(summary["all"]["ends"].values()) == sum(summary["all"]["models"].values()) == 10
    text = Path(devices.folder / "summary.txt").read_text()
    for row in summary["faults"]:
        assert row["kind"] in text
