"""The attacker table of the wire protocol, at the device: what each can do, and what it must never reach.

Rows about brokers, accounts and backends (other devices' topics, client ids, shared subscriptions) are tested
where those are. Here a device stands on a bench, with real signatures; the attacker owns everything else.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from device_firmware.host.core import CODES, Phase, State
from fleet.mqtt import topics
from fleet.mqtt.codec import envelope
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import Action, CommandVerb
from ota.desired import Desired, DesiredEntry, sign_desired
from tests.firmware.artifacts import (
    DEVICE,
    INSTALLATION,
    MAC_KEY,
    NOW,
    ONLINE,
    RELEASE,
    RELEASE2,
    ROOTS,
    Artifact,
    artifact,
    keypair,
    signed_trust,
    trust,
)
from tests.firmware.rig import Rig

Alter = Callable[[str, bytes], bytes | None]


def flip(payload: bytes, noise: random.Random) -> bytes:
    """One random bit the other way."""
    if not payload:
        return payload
    at = noise.randrange(len(payload))
    return payload[:at] + bytes((payload[at] ^ 1 << noise.randrange(8),)) + payload[at + 1 :]


def mangling(noise: random.Random) -> Alter:
    """A network that flips, cuts and drops a third of what it carries."""

    def alter(topic: str, payload: bytes) -> bytes | None:
        if noise.random() < 0.67:
            return payload
        return noise.choice([None, flip(payload, noise), payload[: noise.randrange(len(payload) + 1)], b""])

    return alter


def only_signed(rig: Rig, *items: Artifact) -> None:
    """Nothing but these models' bytes ever reached the engine or runs."""
    assert set(rig.engine.loaded.values()) <= {item.data for item in items}
    running = rig.core.running(0)
    assert running is None or running.id in {item.id for item in items}


# --- network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_network_that_flips_cuts_and_drops_delays_an_update_and_no_more(seed: int, rig: Rig) -> None:
    first, second = artifact(1), artifact(2, size=12 * 4096 + 5)
    rig.install(first)
    rig.port.alter = mangling(random.Random(seed))
    rig.offer(second, attempt=2)
    for _ in range(8):
        rig.advance(10, step_ms=500)
        only_signed(rig, first, second)
        rig.reconnect()
    rig.port.alter = lambda topic, payload: payload
    if rig.slot().state == State.REFUSED:  # three documents that do not fit end an attempt, not a device
        assert rig.slot().code in (CODES["digest"], CODES["leaf_list"])
        rig.offer(second, attempt=3)
    rig.reconnect()
    rig.advance(70, step_ms=1000)
    if rig.slot().phase != Phase.CONFIRMED or rig.slot().run_id != second.id[:16]:
        rig.confirm()
    assert rig.slot().run_id == second.id[:16]


def test_everything_of_an_old_life_replayed_changes_nothing(rig: Rig) -> None:
    """All messages that the device ever received, again and in another order."""
    heard: list[tuple[str, bytes]] = []
    take = rig.core.message

    def listening(topic: str, payload: bytes) -> int:
        heard.append((topic, payload))
        return take(topic, payload)

    rig.core.message = listening  # type: ignore[method-assign]
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.command(CommandVerb.IDENTIFY)
    rig.install(second, attempt=2)
    rig.give_trust(trust(version=2))
    rig.core.message = take  # type: ignore[method-assign]
    before, slot, done = rig.core.state(), rig.slot(), rig.port.identified
    random.Random(1).shuffle(heard)
    assert len(heard) > 20
    for topic, payload in heard:
        rig.core.message(topic, payload)
        rig.run()
    after = rig.core.state()
    assert (after.record_number, after.flash_ops) == (before.record_number, before.flash_ops)
    assert (rig.slot().run_id, rig.slot().state) == (slot.run_id, slot.state)
    assert rig.port.identified == done


# --- broker ---------------------------------------------------------------------------------------


def test_a_broker_cannot_downgrade_by_an_older_document_or_model(rig: Rig) -> None:
    old, new = artifact(1), artifact(2)
    rig.stage(old)
    offer = rig.desired_message({0: DesiredEntry(Action.RUN, old.id, attempt=1)})
    assert rig.deliver(topics.desired(DEVICE), offer) == 0
    rig.confirm()
    rig.install(new, attempt=2)
    assert rig.deliver(topics.desired(DEVICE), offer) == -CODES["sequence"]
    # The old model's bytes under the new model's topics.
    rig.port.retained |= {
        topic.replace(old.mid, new.mid): payload for topic, payload in old.publications().items()
    }
    rig.restart()
    assert rig.slot().run_id == new.id[:16]
    only_signed(rig, new)


def foreign() -> Iterator[Any]:
    """Documents signed by the right key for somebody else, or under another name."""
    entries = {0: DesiredEntry(Action.STOP, attempt=9)}
    values: dict[str, Any] = {"counter": 1 << 40 | NOW << 8 | 200, "trust_version": 1, "issued": NOW}
    mine = Desired(DEVICE, entries=entries, **values)
    other = Desired("dev-8", entries=entries, **values)
    yield pytest.param(sign_desired(other, ONLINE, installation_id=INSTALLATION), "desired", id="device")
    yield pytest.param(sign_desired(mine, ONLINE, installation_id=bytes(16)), "desired", id="installation")
    yield pytest.param(sign_desired(mine, ONLINE, installation_id=INSTALLATION), "cmd", id="kind")
    yield pytest.param(sign_desired(mine, RELEASE, installation_id=INSTALLATION), "desired", id="release key")
    yield pytest.param(sign_desired(mine, ROOTS[0], installation_id=INSTALLATION), "desired", id="root key")


@pytest.mark.parametrize(("message", "kind"), list(foreign()))
def test_a_broker_cannot_retarget_a_document(message: bytes, kind: str, rig: Rig) -> None:
    rig.install(artifact(1))
    number = rig.core.state().record_number
    assert rig.core.message(topics.device(DEVICE, kind), message) in (-CODES["signature"], -CODES["schema"])
    rig.run()
    assert rig.core.running(0) is not None
    assert rig.core.state().record_number == number


def test_a_broker_cannot_forge_or_move_a_healthy_report(rig: Rig) -> None:
    """Every bit of what a device says of itself is under its MAC, with its topic and installation."""
    rig.install(artifact(1))
    topic = topics.device(DEVICE, "reported")
    report = [payload for where, payload, *_ in rig.port.sent if where == topic][-1]
    keys = envelope.keyring(MAC_KEY)

    def opens(message: bytes, at: str = topic, kind: str = "reported", inst: bytes = INSTALLATION) -> bool:
        try:
            envelope.open_uplink(kind, message, topic=at, installation_id=inst, key_lookup=keys)
        except CodecError:
            return False
        return True

    assert opens(report)
    assert not opens(report, at=topics.device("dev-8", "reported"))
    assert not opens(report, at=topics.device(DEVICE, "event"), kind="event")
    assert not opens(report, inst=bytes(16))
    for bit in range(8 * len(report)):
        at, mask = bit // 8, 1 << bit % 8
        assert not opens(report[:at] + bytes((report[at] ^ mask,)) + report[at + 1 :]), bit


def test_a_broker_that_withholds_a_segment_leaves_the_old_model_running(rig: Rig) -> None:
    first, second = artifact(1), artifact(2, size=36 * 4096)
    rig.install(first)
    rig.port.alter = lambda topic, payload: None if f"{second.mid}/1/" in topic else payload
    rig.offer(second, attempt=2)
    for _ in range(20):
        rig.advance(60, step_ms=2000)
    slot = rig.slot()
    assert (slot.state, slot.have) == (State.DOWNLOADING, 16), "it waits for segment 1"
    running = rig.core.running(0)
    assert running is not None
    assert running.id == first.id
    rig.port.alter = lambda topic, payload: payload
    rig.reconnect()
    rig.advance(20)
    rig.confirm()
    assert rig.slot().run_id == second.id[:16]


# --- keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signers", [(RELEASE,), (RELEASE, RELEASE), (RELEASE, keypair("stranger")), (RELEASE, ONLINE)]
)
def test_one_release_key_of_two_passes_nothing(signers: tuple[Any, ...], rig: Rig) -> None:
    keys = (RELEASE.public_key, RELEASE2.public_key)
    rig.give_trust(trust(version=2, release=keys, release_threshold=2))
    rig.offer(artifact(1, signers=signers), version=2)
    assert (rig.slot().state, rig.slot().code) == (State.REFUSED, CODES["signature"])
    rig.offer(artifact(1, signers=(RELEASE, RELEASE2)), version=2, attempt=2)
    rig.confirm()


def test_a_stolen_online_key_installs_nothing_that_the_release_keys_did_not_sign(rig: Rig) -> None:
    first, forged = artifact(1), artifact(9, signers=(ONLINE,))
    rig.install(first)
    rig.offer(forged, attempt=2)
    assert (rig.slot().state, rig.slot().code) == (State.REFUSED, CODES["signature"])
    only_signed(rig, first)


def test_counters_burned_by_a_stolen_online_key_are_healed_by_the_next_trust_version(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    assert rig.want(counter=(2 << 40) - 1) == 0, "the thief's last possible counter"
    rig.stage(second)
    entry = DesiredEntry(Action.RUN, second.id, attempt=3)
    assert rig.want(entry) == -CODES["sequence"]
    owner = keypair("online2")
    assert rig.give_trust(trust(version=2, online=(owner.public_key,))) == 0
    assert rig.want(entry, version=2) == -CODES["signature"], "the stolen key"
    document = Desired(DEVICE, 2 << 40 | 1, 2, issued=NOW, entries={0: entry})
    message = sign_desired(document, owner, installation_id=INSTALLATION)
    assert rig.deliver(topics.desired(DEVICE), message) == 0
    rig.confirm()
    assert rig.slot().run_id == second.id[:16]


def test_one_root_of_three_rotates_nothing(rig: Rig) -> None:
    mine = keypair("thief")
    taken = trust(version=2, release=(mine.public_key,), online=(keypair("thief2").public_key,))
    for keys in ((ROOTS[0],), (ROOTS[0], ROOTS[0]), (ROOTS[0], mine), (mine, keypair("thief2"))):
        assert rig.deliver(topics.TRUST, signed_trust(taken, keys)) == -CODES["trust"]
    assert rig.core.state().trust_version == 1
    own_roots = trust(version=2, roots=(mine.public_key, keypair("thief3").public_key), root_threshold=1)
    assert rig.deliver(topics.TRUST, signed_trust(own_roots, (mine, keypair("thief3")))) == -CODES["trust"]
