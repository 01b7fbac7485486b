"""What a start finds: confirmed models, worn flash, crash loops, damaged logs."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from device_firmware.host.core import CODES, Area, Core, CoreError, Phase, Reset, State
from fleet.mqtt.codec.names import Action, ConfigKey
from ota.desired import DesiredEntry
from tests.firmware import record
from tests.firmware.artifacts import artifact, ident
from tests.firmware.played import Port, ScriptedEngine
from tests.firmware.rig import Rig


def running_id(rig: Rig) -> bytes | None:
    """Id of the running model."""
    model = rig.core.running(0)
    return None if model is None else model.id


@pytest.mark.parametrize("reason", list(Reset))
def test_a_confirmed_model_runs_after_any_reset(reason: Reset, rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    rig.restart(reason, connect=False)
    assert running_id(rig) == item.id, "without a network"
    assert rig.slot().state == State.CONFIRMED


def test_a_start_writes_no_record(rig: Rig) -> None:
    rig.install(artifact(1))
    number = rig.core.state().record_number
    for _ in range(5):
        rig.restart()
    assert rig.core.state().record_number == number


def test_a_flipped_bit_in_the_running_model_starts_the_other_and_fetches_one_chunk(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.install(second, attempt=2)
    rig.core.flip(Area.BANK0 + 1, 3 * 4096 + 5, 2)
    rig.restart(connect=False)
    assert running_id(rig) == first.id
    assert rig.slot().phase == Phase.FETCH, "what is desired is fetched again"
    rig.core.link(True, True)
    rig.run()
    erases = [rig.core.erase_count(Area.BANK0 + 1, 2 + index) for index in range(5)]
    assert sorted(erases) == [1, 1, 1, 1, 2]
    rig.confirm()
    assert running_id(rig) == second.id


def test_a_flipped_bit_without_a_second_model_is_healed_from_the_broker(rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    rig.core.flip(Area.BANK0, 3 * 4096 + 5, 2)
    retained = dict(rig.port.retained)
    rig.port.retained.clear()
    rig.restart()
    assert running_id(rig) is None
    assert rig.reports(), "online without a model"
    rig.port.retained |= retained
    rig.reconnect()
    rig.advance(15)
    rig.confirm()
    assert running_id(rig) == item.id


def test_a_damaged_manifest_sector_of_the_running_model_is_noticed(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.core.flip(Area.BANK0, 100, 2)
    rig.port.retained.clear()
    rig.restart()
    assert running_id(rig) is None


def test_three_panics_in_a_row_end_in_safe_mode(rig: Rig) -> None:
    item = artifact(1)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), config={ConfigKey.HEARTBEAT_S: 7})
    rig.confirm()
    for _ in range(2):
        rig.restart(Reset.PANIC)
        assert running_id(rig) == item.id
    rig.restart(Reset.WATCHDOG)
    state, slot = rig.core.state(), rig.slot()
    assert state.safe_mode
    assert running_id(rig) is None
    assert (slot.state, slot.code) == (State.REFUSED, CODES["crash_loop"])
    assert state.config.heartbeat_s == 300, "a stored configuration is not trusted"
    assert rig.reports()[-1].slots[0].code.name == "CRASH_LOOP"
    rig.restart(Reset.PANIC)
    assert rig.core.state().safe_mode


def test_a_power_cycle_leaves_safe_mode(rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    for _ in range(3):
        rig.restart(Reset.PANIC)
    assert rig.core.state().safe_mode
    rig.restart(Reset.POWER)
    assert running_id(rig) == item.id
    assert rig.core.state().panics == 0


def test_an_update_leaves_safe_mode(rig: Rig) -> None:
    rig.install(artifact(1))
    for _ in range(3):
        rig.restart(Reset.PANIC)
    better = artifact(2)
    rig.install(better, attempt=2)
    state = rig.core.state()
    assert (state.safe_mode, state.panics) == (False, 0)
    assert running_id(rig) == better.id


def test_five_quiet_minutes_end_a_row_of_panics(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.restart(Reset.PANIC)
    rig.restart(Reset.PANIC)
    assert rig.core.state().panics == 2
    rig.advance(310, step_ms=5000)
    assert rig.core.state().panics == 0
    rig.restart(Reset.PANIC)
    assert not rig.core.state().safe_mode


@pytest.mark.parametrize("offset", [0, 4, 8, 100, 272, 300, 508])
def test_a_flipped_bit_in_the_newest_record_leaves_the_one_before(offset: int, rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    found = record.records(rig.path)
    assert [entry.number for entry in found] == list(range(1, len(found) + 1))
    assert [found[-2].phase, found[-1].phase] == [Phase.PROBATION, Phase.CONFIRMED]
    rig.core.flip(Area.META, (len(found) - 1) * 512 + offset, 4)
    rig.restart(connect=False)
    assert (rig.slot().phase, rig.slot().cuts) == (Phase.PROBATION, 1), "probation starts over"
    rig.core.link(True, True)
    rig.confirm()
    assert running_id(rig) == item.id


def test_a_lost_stored_document_is_asked_for_again_and_its_version_still_counts(rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    for sector in (2, 3, 4, 5):
        rig.core.flip(Area.META, sector * 4096 + 20, 1)
    rig.restart(connect=False)
    assert running_id(rig) == item.id
    before = rig.core.state()
    rig.core.link(True, True)
    rig.run()
    after = rig.core.state()
    assert (after.trust_version, after.desired_counter) == (before.trust_version, before.desired_counter)
    assert rig.slot().state == State.CONFIRMED
    assert after.refusal == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_noise_in_flash_never_stops_a_device_from_getting_online(seed: int, rig: Rig) -> None:
    rig.install(artifact(1))
    rig.core.close()
    noise = random.Random(seed)
    data = bytearray(rig.path.read_bytes())
    for _ in range(2000):
        data[4096 + noise.randrange(8 * 4096 + 20 * 4096)] = noise.randrange(256)
    rig.path.write_bytes(data)
    rig.core = rig._open()
    rig.core.boot(Reset.POWER)
    rig.core.link(True, True)
    rig.run()
    rig.advance(5)
    assert rig.reports()


def test_identities_that_no_device_can_have(tmp_path: Path) -> None:
    good = ident()
    for bad in (
        replace(good, device_id=""),
        replace(good, device_id="Dev"),
        replace(good, device_id="d" * 33),
        replace(good, device_id="-d"),
        replace(good, firmware_version="1.0"),
        replace(good, firmware_version="1.0.70000"),
        replace(good, root_threshold=0),
        replace(good, root_threshold=4),
        replace(good, chip=7),
        replace(good, mac_key=b"short"),
        replace(good, roots=()),
        replace(good, slot_capacity=(5000,)),
    ):
        with pytest.raises(CoreError) as refused:
            Core(tmp_path / "f.bin", bad, engine=ScriptedEngine(), port=Port()).boot(Reset.POWER)
        assert refused.value.code == "schema"


def test_a_flash_file_of_another_layout_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "flash.bin"
    Core(path, ident(), engine=ScriptedEngine(), port=Port()).close()
    before = path.read_bytes()
    with pytest.raises(CoreError) as refused:
        Core(path, ident(slot_capacity=(8192,)), engine=ScriptedEngine(), port=Port())
    assert refused.value.code == "flash_io"
    assert path.read_bytes() == before


def test_the_first_report_after_a_start_tells_the_state_that_was(rig: Rig) -> None:
    first = artifact(1)
    rig.install(first)
    rig.restart()
    assert rig.reports()[0].slots[0].state.name == "CONFIRMED"
    rig.offer(artifact(2), attempt=2)
    rig.restart()
    assert rig.reports()[0].slots[0].state.name == "TRIAL"
    rig.restart(Reset.PANIC)
    rig.restart(Reset.PANIC)
    assert rig.reports()[0].slots[0].state.name == "REVERTED"


def test_a_worn_old_model_is_not_loaded_after_the_trial_that_a_power_loss_interrupted(rig: Rig) -> None:
    """In a start within a trial the candidate goes first; the old bank is hashed when it is its turn."""
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.offer(second, attempt=2)
    assert rig.slot().phase == Phase.PROBATION
    rig.core.flip(Area.BANK0, 3 * 4096 + 5, 2)
    rig.engine.offset = 40
    rig.engine.loaded.clear()
    rig.restart(Reset.POWER)
    assert rig.slot().phase == Phase.CONFIRMED, "the candidate failed"
    assert 0 not in rig.engine.loaded, "other bytes than the signed ones reached the engine"
    assert running_id(rig) is None
    rig.engine.offset = 0
    rig.want(DesiredEntry(Action.RUN, first.id, attempt=3))
    rig.advance(5)
    rig.confirm()
    assert running_id(rig) == first.id
