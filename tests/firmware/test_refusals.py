"""What a device refuses before a trial, with which code, and what it takes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from device_firmware.host.core import CODES, Area, State
from fleet.mqtt.codec.names import Action
from ota.desired import DesiredEntry
from ota.tensors import GoldenBlob
from ota.trust import NameRule
from tests.firmware import record
from tests.firmware.artifacts import NOW, RELEASE, RELEASE2, artifact, keypair, trust
from tests.firmware.rig import Rig

BANK_HEAD = 2  # manifest and leaf sector of a small model


def refused(rig: Rig) -> tuple[int, int]:
    """Code and detail of slot 0, which must be refused."""
    slot = rig.slot()
    assert slot.state == State.REFUSED, slot
    return slot.code, slot.detail


REFUSED: dict[str, tuple[dict[str, Any], str, int]] = {
    "another class": ({"classes": (bytes(16),)}, "target_class", 0),
    "an arena above the board's": ({"arena_bytes": 100_001}, "arena_too_small", 100_001),
    "an operator that is not linked": ({"operators": (3, 9, 14, 25)}, "op_missing", 14),
    "an operator above all that are linked": ({"operators": (3, 120)}, "op_missing", 120),
    "a custom operator that is not linked": ({"operators": (3, "SignalOther")}, "op_missing", 32),
    "a newer firmware": ({"firmware": (1, 0, 1)}, "firmware_too_old", 0),
    "an expiry in the past": ({"expires": NOW - 2000}, "expired", 0),
    "another slot": ({"slot": 1}, "schema", 0),
    "a stranger's signature": ({"signers": (keypair("stranger"),)}, "signature", 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_manifest_is_refused_for(name: str, rig: Rig) -> None:
    changes, code, detail = REFUSED[name]
    item = artifact(5, **changes)
    rig.offer(item)
    assert refused(rig) == (CODES[code], detail)
    event = [event for event in rig.events() if event.kind.name == "REFUSAL"][-1]
    assert (event.detail, event.mid, event.slot) == ((CODES[code], detail), item.mid, 0)
    writes = rig.core.erase_count(Area.BANK0, 0)
    assert writes == 0, "a refused manifest harms no bank"
    rig.restart()
    assert refused(rig)[0] == CODES[code], "and is refused again after a reset"


def test_custom_and_builtin_operators_that_are_linked_pass(rig: Rig) -> None:
    rig.install(artifact(1, operators=(0, 3, 9, 22, 25, "SignalWindow")))


def test_a_golden_blob_that_is_no_vector_is_refused_before_the_trial(rig: Rig) -> None:
    blob = b"\x81\x82\x81\x44abcd\x81\x43abc"
    good = GoldenBlob(len(blob), hashlib.sha256(blob).digest(), 1, 0)
    for number, (noise, code) in enumerate(
        [
            (b"\xff" * 9, "schema"),
            (b"\x81\x82\x81\x43abc\x81\x43abc", "io_contract"),
            (blob + b"\0", "schema"),
        ],
        1,
    ):
        golden = GoldenBlob(len(noise), hashlib.sha256(noise).digest(), 1, 0)
        rig.offer(artifact(number, blob=noise, manifest_changes={"golden": golden}), attempt=number)
        assert refused(rig)[0] == CODES[code]
    rig.offer(artifact(9, blob=blob, manifest_changes={"golden": good}), attempt=9)
    assert rig.slot().code in (0, CODES["selftest_mismatch"]), "a well-formed one comes to its trial"
    assert "load" in rig.engine.calls


def test_seq_must_rise_and_an_equal_one_must_be_the_same_model(rig: Rig) -> None:
    first = artifact(5)
    rig.install(first)
    rig.offer(artifact(4), attempt=2)
    assert refused(rig) == (CODES["sequence"], 5)
    rig.offer(artifact(5, size=9000), attempt=3)
    assert refused(rig) == (CODES["sequence"], 5)
    rig.install(artifact(6), attempt=4)


def test_the_floor_of_a_confirmed_model_is_kept(rig: Rig) -> None:
    rig.install(artifact(5, floor=4))
    rig.install(artifact(7, floor=7), attempt=2)
    rig.want(DesiredEntry(Action.RUN_OTHER_BANK, artifact(5, floor=4).id, attempt=3))
    assert refused(rig) == (CODES["floor"], 7), "action 1 may go below seq, never below the floor"


def test_a_ninth_model_name_is_refused(rig: Rig) -> None:
    for number in range(8):
        rig.install(artifact(1, name=f"m{number}", size=500), attempt=number + 1)
    rig.offer(artifact(1, name="m8", size=500), attempt=20)
    assert refused(rig) == (CODES["sequence"], 1)


def test_two_release_keys_may_be_needed(rig: Rig) -> None:
    both = (RELEASE.public_key, RELEASE2.public_key)
    rig.give_trust(trust(version=2, release=both, release_threshold=2))
    rig.offer(artifact(1), version=2)
    assert refused(rig) == (CODES["signature"], 1)
    item = artifact(2, signers=(RELEASE, RELEASE2))
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=2), version=2)
    rig.confirm()


def test_a_revoked_release_key_signs_nothing_new(rig: Rig) -> None:
    both = (RELEASE.public_key, RELEASE2.public_key)
    rig.give_trust(trust(version=2, release=both, revoked=(RELEASE.kid,)))
    rig.offer(artifact(1), version=2)
    assert refused(rig)[0] == CODES["signature"]


def test_the_least_seq_of_the_trust_document_counts(rig: Rig) -> None:
    rig.give_trust(trust(version=2, names=(NameRule("har", 10),)))
    rig.offer(artifact(9), version=2)
    assert refused(rig) == (CODES["sequence"], 10)


def test_a_root_signed_reset_lowers_what_a_name_has_reached(rig: Rig) -> None:
    rig.install(artifact(50, floor=50))
    rig.give_trust(trust(version=2, names=(NameRule("har", 3, True),)))
    rig.offer(artifact(3), version=2, attempt=2)
    rig.confirm()
    assert record.newest(rig.path).names[0][2:] == (3, 3)
