"""What the record says of banks, names and stored documents, and when it may say so."""

from __future__ import annotations

from device_firmware.host.core import CODES, Area, Phase, Reset, State
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, ConfigKey
from ota.desired import DesiredEntry
from tests.firmware import record
from tests.firmware.artifacts import artifact
from tests.firmware.rig import Rig

USABLE = 1


def ladder(rig: Rig) -> list[tuple[int, int]]:
    """(seq, floor) of each name in the newest record."""
    return [(seq, floor) for _, _, seq, floor in record.newest(rig.path).names]


def test_a_candidate_that_fails_raises_neither_seq_nor_floor(rig: Rig) -> None:
    rig.install(artifact(1))
    rig.offer(artifact(5, floor=5), attempt=2)
    assert rig.slot().phase == Phase.PROBATION
    assert ladder(rig) == [(1, 0)]
    rig.core.sample(0, us=1, failed=True)
    rig.run()
    assert rig.slot().state == State.REVERTED
    assert ladder(rig) == [(1, 0)]
    rig.install(artifact(2), attempt=3)
    assert ladder(rig) == [(2, 0)]


def test_action_1_stops_at_the_floor_and_not_one_below(rig: Rig) -> None:
    first, second, third = artifact(4), artifact(5, floor=4), artifact(6, floor=6)
    rig.install(first)
    rig.install(second, attempt=2)
    rig.want(DesiredEntry(Action.RUN_OTHER_BANK, first.id, attempt=3))
    rig.confirm()
    assert rig.slot().run_id == first.id[:16], "seq 4 is not below floor 4"
    rig.install(third, attempt=4)
    rig.port.retained.clear()
    assert ladder(rig) == [(6, 6)]
    rig.want(DesiredEntry(Action.RUN_OTHER_BANK, first.id, attempt=5))
    assert (rig.slot().state, rig.slot().code) == (State.REFUSED, CODES["floor"])
    assert rig.slot().run_id == third.id[:16]


def test_action_1_one_below_the_floor_is_refused(rig: Rig) -> None:
    first, second = artifact(4), artifact(5, floor=5)
    rig.install(first)
    rig.install(second, attempt=2)
    rig.want(DesiredEntry(Action.RUN_OTHER_BANK, first.id, attempt=3))
    assert (rig.slot().state, rig.slot().code) == (State.REFUSED, CODES["floor"])


def test_a_bank_that_is_being_overwritten_is_no_way_back(rig: Rig) -> None:
    first, second, third = artifact(1), artifact(2), artifact(3, size=40 * 4096)
    rig.install(first)
    rig.install(second, attempt=2)
    assert rig.slot().flags & USABLE
    rig.port.alter = lambda topic, payload: None if topic == topics.chunk(third.mid, 20) else payload
    rig.offer(third, attempt=3)
    assert rig.slot().phase == Phase.FETCH
    assert not rig.slot().flags & USABLE
    rig.want(DesiredEntry(Action.RUN, second.id, attempt=4))
    assert rig.slot().phase == Phase.CONFIRMED
    assert not record.newest(rig.path).flags & USABLE
    for gone in (first, third):
        rig.want(DesiredEntry(Action.RUN_OTHER_BANK, gone.id, attempt=5))
        assert (rig.slot().state, rig.slot().code) == (State.REFUSED, CODES["not_in_bank"])
        assert rig.slot().run_id == second.id[:16]


def test_a_flipped_bit_in_a_stored_configuration_is_not_obeyed(rig: Rig) -> None:
    """The bit leaves a well-formed document; only its digest in the record tells."""
    rig.want(config={ConfigKey.HEARTBEAT_S: 20})
    rig.restart(connect=False)
    assert rig.core.state().config.heartbeat_s == 20
    stored = b"".join(rig.core.flash_read(Area.META, sector * 4096, 4096) for sector in (4, 5))
    found = [at for at in range(len(stored)) if stored[at : at + 4] == b"\x05\xa1\x01\x14"]
    assert len(found) == 1, "key 5, a map of one, key 1, 20"
    rig.core.flip(Area.META, 4 * 4096 + found[0] + 3, 0)
    rig.port.retained.pop(topics.desired(rig.identity.device_id))
    rig.restart()
    assert rig.core.state().config.heartbeat_s == 300


def test_an_entry_that_names_the_candidate_takes_over_its_trial(rig: Rig) -> None:
    """What `reported` says does not depend on whether the device was reset in between."""
    rig.install(artifact(1))
    second = artifact(2)
    rig.offer(second, attempt=2)
    assert rig.slot().state == State.TRIAL
    rig.want(DesiredEntry(Action.RUN, second.id, attempt=3))
    before = rig.slot()
    assert (before.state, before.attempt, before.have, before.total) == (State.TRIAL, 3, 5, 5)
    rig.restart(Reset.SLEEP)
    after = rig.slot()
    assert (after.state, after.attempt, after.have, after.total) == (State.TRIAL, 3, 5, 5)
    rig.want()
    assert rig.slot().state == State.TRIAL, "nothing else is asked for"
    rig.restart(Reset.SLEEP)
    assert rig.slot().state == State.TRIAL
    rig.want(DesiredEntry(Action.RUN, second.id, attempt=4))
    rig.core.sample(0, us=1, failed=True)
    rig.run()
    assert (rig.slot().state, rig.slot().failed_attempt) == (State.REVERTED, 4)
