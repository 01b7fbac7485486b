"""The core on rv32imc, its serial line on a real Mosquitto, updated by the real backend.

Enrolled over HTTPS; models signed and staged by the product's own processes; golden vectors and inferences by
the official TFLM wheel over a second serial line. Power cuts are real in their way: the emulator is killed.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from device_firmware.host.core import Phase, Reset, State
from device_firmware.host.home import Home
from device_firmware.host.identity import Ticket, claim, tls_context
from device_firmware.host.rv32.emulated import EmulatedDevice, Look
from fleet.client import Client, wait_for
from fleet.demo import plans, story
from fleet.demo.report import Report, Step
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.run import Stack, StackInfo
from tests.e2e.conftest import approver, issue_token
from tests.models.watch import watch_dir

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("rv32"), pytest.mark.timeout(600)]

DEVICE = "rv32-0"
CUTS = 6
SEED = int(os.environ.get("FLEET_RV32_SEED", "20261126"))


@dataclasses.dataclass
class Bench:
    """A running installation with one emulated device."""

    stack: Stack
    info: StackInfo
    setting: story.Setting
    device: EmulatedDevice

    def wait(self, what: str, *states: State, seq: int = 0, deadline_s: float = 60) -> Look:
        """Return once the device shows one of these states; seq: and runs this confirmed model."""

        def look() -> tuple[Look | None, str]:
            seen = self.device.look()
            has_failed = seen.state in (State.REVERTED, State.REFUSED)
            assert not has_failed or seen.state in states, f"waiting for {what}: {seen}"
            is_there = seen.state in states and (not seq or seen.seq == seq)
            return (seen if is_there else None), str(seen)

        return wait_for(what, look, deadline_s=deadline_s, every_s=0.02)


@pytest.fixture(scope="module")
def bench(chip: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The stack, and a device that enrolled and came online."""
    folder = tmp_path_factory.mktemp("emulated")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")
    }
    report, data = Report(), watch_dir()
    with Stack(RunDir(folder / "run"), say=report.say, environ=environment, has_plain_mqtt=True) as stack:
        info = stack.start()
        home = Home(folder / DEVICE)
        home.make()
        enrol(stack, info, home, folder / "tickets.jsonl")
        setting = story.Setting(
            root=PROJECT_ROOT,
            run_dir=info.run.root,
            devices=1,
            url=info.web_url,
            ca_file=info.env["FLEET_WEB_CA"],
            api=Client(info.console_url, issue_token(info)),
            approver=Client(info.console_url, issue_token(info, approver(info))),
            manage=stack.manage,
            report=report,
            data_dir=data,
        )
        assert stack.plain_mqtt_port is not None
        with EmulatedDevice(home, broker_port=stack.plain_mqtt_port, data=data) as device:
            device.wait_until_ready()
            device.power_on()
            yield Bench(stack, info, setting, device)


def enrol(stack: Stack, info: StackInfo, home: Home, tickets: Path) -> None:
    """A one-time ticket by the command a person uses, exchanged over HTTPS as any device does."""
    status = stack.manage("devices", "enrol", "--class", "host-a", "--out", str(tickets), DEVICE)
    assert status == 0
    ticket = Ticket.parse(tickets.read_text())
    claim(ticket, tls=tls_context(info.env["FLEET_WEB_CA"])).save(home.identity_file)
    tickets.unlink()


def as_reported(bench: Bench) -> tuple[str, str]:
    """Model and version that the backend believes slot 0 runs, and the device's presence."""
    seen = next(item for item in bench.setting.api.every("/devices") if item["id"] == DEVICE)
    run = next((slot["run"] for slot in seen["slots"] if slot["slot"] == 0), None)
    return (f"{run['model']} {run['version']}" if run else "nothing"), seen["presence"]


def test_an_emulated_device_installs_its_first_model(bench: Bench) -> None:
    def online() -> tuple[bool | None, str]:
        bench.device.look()
        seen = as_reported(bench)
        return (True if seen[1] == "online" else None), str(seen)

    wait_for("online", online, deadline_s=60)
    bench.setting.api.post("/devices:config", {"config": plans.DEVICE_CONFIG})
    story.release(bench.setting, Step("a", "release"), "1.0.0", "activity-v1")
    rollout = story.roll_out(bench.setting, "first", "1.0.0", plans.everyone(), devices=[DEVICE])
    bench.wait("confirmed", State.CONFIRMED, deadline_s=60)
    story.ended(bench.setting, Step("a", "roll out"), rollout, "completed", deadline_s=60)
    assert as_reported(bench) == ("activity 1.0.0", "online")
    assert bench.device.look().seq == 1


def test_a_device_that_loses_power_at_random_points_of_an_update_ends_confirmed(bench: Bench) -> None:
    chance = random.Random(SEED)
    version = "2.0.0"
    story.release(bench.setting, Step("b", "release"), version, "activity-large")
    rollout = story.roll_out(bench.setting, "cut", version, plans.everyone(), devices=[DEVICE])
    cuts: list[Look] = []
    bench.wait("the update to begin", State.OFFERED, State.MANIFEST_OK, State.DOWNLOADING)
    for number in range(CUTS):
        cuts.append(cut_somewhere(bench, chance, number, after=max((cut.have for cut in cuts), default=0)))
        bench.device.power_on()
    bench.wait("confirmed", State.CONFIRMED, seq=2, deadline_s=240)
    story.ended(bench.setting, Step("b", "roll out"), rollout, "completed", deadline_s=60)
    assert as_reported(bench) == (f"activity {version}", "online")
    print(f"seed {SEED}, cuts at: {[(cut.state.name, cut.have, Phase(cut.phase).name) for cut in cuts]}")
    assert bench.device.starts == [Reset.POWER] * (CUTS + 1), bench.device.starts
    halfway = [cut for cut in cuts if cut.state == State.DOWNLOADING and 0 < cut.have < cut.total]
    assert halfway, cuts
    assert {cut.seq for cut in cuts} <= {-1, 1}, "the old model was confirmed all along"


def cut_somewhere(bench: Bench, chance: random.Random, number: int, *, after: int) -> Look:
    """Wait for a random point, then kill the emulator. Two cuts of three aim at a random chunk's arrival.

    after: chunks that were there at an earlier cut; the next one comes later, or it would hit the start.
    """
    if number % 3 != 2:
        wanted = after + chance.randrange(1, 14)

        def look() -> tuple[Look | None, str]:
            seen = bench.device.look()
            is_past = seen.state in (State.DOWNLOADED, State.VERIFIED, State.TRIAL)
            is_there = seen.state == State.DOWNLOADING and seen.have >= wanted
            return (seen if is_there or is_past else None), str(seen)

        wait_for(f"chunk {wanted}", look, deadline_s=60, every_s=0.005)
    else:
        time.sleep(chance.uniform(0.0, 4.0))  # no condition: any point of a life is as good
    bench.device.cut_power()
    return bench.device.look()


def test_what_the_emulated_device_measured_arrives_as_telemetry(bench: Bench) -> None:
    """Batches with a valid MAC, with scores and labels from the wheel: the backend keeps nothing else."""

    def look() -> tuple[int | None, str]:
        bench.device.look()
        with psycopg.connect(bench.info.env["DATABASE_URL"]) as database:
            row = database.execute(
                "SELECT count(*), sum(n), sum(lab_n), sum(lab_ok) FROM tele_window WHERE device_id = %s",
                (DEVICE,),
            ).fetchone()
        assert row is not None
        windows, inferences, labelled, right = (int(value or 0) for value in row)
        is_enough = windows >= 3 and labelled >= 10 and right > labelled // 3
        return (inferences if is_enough else None), str(row)

    assert wait_for("windows with labels", look, deadline_s=60) >= 10
