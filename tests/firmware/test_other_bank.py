"""Back to what the other bank holds, stop and start: nothing is downloaded."""

from __future__ import annotations

from device_firmware.host.core import CODES, Area, State
from fleet.mqtt.codec.names import Action
from ota.desired import DesiredEntry
from tests.firmware import record
from tests.firmware.artifacts import Artifact, artifact
from tests.firmware.rig import Rig
from tests.firmware.test_refusals import BANK_HEAD, refused


def go_back(rig: Rig, item: Artifact, attempt: int) -> None:
    """Ask for a model of the other bank."""
    rig.want(DesiredEntry(Action.RUN_OTHER_BANK, item.id, attempt=attempt))


def test_action_1_goes_back_without_a_download(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.install(second, attempt=2)
    rig.port.retained.clear()
    go_back(rig, first, 3)
    assert rig.slot().state == State.TRIAL
    assert record.newest(rig.path).flags & 4, "the record tells a revert"
    rig.confirm()
    report = rig.reports()[-1].slots[0]
    assert (report.target, report.code) == (first.id[:16], 0)
    assert report.other_bank is not None
    assert (report.other_bank.manifest_id, report.other_bank.flags) == (second.id[:16], 1)
    assert record.newest(rig.path).names[0][2] == 2, "the highest confirmed seq stays"


def test_action_1_for_what_runs_is_no_work(rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    loads = rig.engine.calls.count("load")
    go_back(rig, item, 2)
    assert rig.slot().state == State.CONFIRMED
    assert rig.engine.calls.count("load") == loads


def test_action_1_for_what_no_bank_holds_is_refused(rig: Rig) -> None:
    rig.install(artifact(1))
    go_back(rig, artifact(2), 2)
    assert refused(rig)[0] == CODES["not_in_bank"]
    assert rig.core.running(0) is not None


def test_run_of_what_the_other_bank_holds_needs_no_download(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.install(second, attempt=2)
    go_back(rig, first, 3)
    rig.confirm()
    rig.port.retained.clear()
    rig.want(DesiredEntry(Action.RUN, second.id, attempt=4))
    rig.confirm()
    assert rig.slot().run_id == second.id[:16]


def test_a_bit_that_flipped_in_the_other_bank_stops_a_revert(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.install(second, attempt=2)
    rig.core.flip(Area.BANK0, BANK_HEAD * 4096 + 7, 0)
    go_back(rig, first, 3)
    assert refused(rig)[0] == CODES["digest"]
    assert rig.core.running(0) is not None


def test_stop_unloads_and_run_starts_again(rig: Rig) -> None:
    item = artifact(1)
    rig.install(item)
    rig.want(DesiredEntry(Action.STOP, attempt=2))
    assert rig.core.running(0) is None
    assert rig.slot().state == State.CONFIRMED
    report = rig.reports()[-1].slots[0]
    assert report.run_bank is not None
    assert report.run_bank.flags == 2
    rig.restart()
    assert rig.core.running(0) is None, "a stop survives a reset"
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=3))
    assert rig.core.running(0) is not None
    assert rig.slot().state == State.CONFIRMED
