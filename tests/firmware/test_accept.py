"""Trust documents, desired documents and commands: which are taken, and what is told of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_firmware.host.core import CODES, Model, Reset, State
from fleet.mqtt import topics
from fleet.mqtt.codec import cose
from fleet.mqtt.codec.names import Action, CommandVerb, ConfigKey, EventKind
from ota.desired import Desired, DesiredEntry
from ota.trust import TrustDocument, sign_trust
from tests.firmware import record
from tests.firmware.artifacts import (
    DEVICE,
    INSTALLATION,
    NOW,
    ONLINE,
    ROOTS,
    artifact,
    keypair,
    signed_trust,
    trust,
)
from tests.firmware.played import Port, ScriptedEngine
from tests.firmware.rig import Rig


def refusal(rig: Rig) -> str:
    """Name of the last document-level refusal, as reported."""
    return rig.reports()[-1].refusal.name.lower()


def results(rig: Rig) -> list[tuple[int, ...]]:
    """(verb, code) of every command result."""
    return [event.detail[:2] for event in rig.events() if event.kind.name == "COMMAND_RESULT"]


# --- trust ----------------------------------------------------------------------------------------


def test_a_trust_document_is_held_over_a_reset(rig: Rig) -> None:
    assert rig.core.state().trust_version == 1
    assert rig.core.state().time_floor == NOW - 1000
    rig.port.retained.clear()
    rig.restart()
    rig.install(artifact(1))


def test_the_same_trust_document_again_is_no_work(rig: Rig) -> None:
    ops = rig.core.state().flash_ops
    assert rig.give_trust() == 0
    assert rig.core.state().flash_ops == ops


@pytest.mark.parametrize(
    "document",
    [trust(version=1, issued=NOW), trust(version=2, root_threshold=2)],
    ids=["the same version with other bytes", "too few roots"],
)
def test_a_trust_document_is_refused_and_the_old_one_stays(document: TrustDocument, rig: Rig) -> None:
    keys = ROOTS[:2] if document.version == 1 else ROOTS[:1]
    assert rig.deliver(topics.TRUST, sign_trust(document.encode(), keys)) == -CODES["trust"]
    assert rig.core.state().trust_version == 1
    assert refusal(rig) == "trust"
    rig.install(artifact(1))


def test_a_device_that_slept_through_a_rotation_walks_the_chain(rig: Rig) -> None:
    """Version 3 is signed by new roots only; version 2, retained apart, by both."""
    new = [keypair(f"new{i}") for i in range(3)]
    public = tuple(key.public_key for key in new)
    second = sign_trust(trust(version=2, roots=public).encode(), [*ROOTS[:2], *new[:2]])
    third = sign_trust(trust(version=3, roots=public).encode(), new[:2])
    rig.port.retained[topics.trust_version(2)] = second
    assert rig.deliver(topics.TRUST, third) == -CODES["trust"]
    assert rig.core.state().trust_version == 3, "the chain was asked for at once, and the newest again"
    item = artifact(1)
    rig.stage(item)
    assert rig.want(DesiredEntry(Action.RUN, item.id, attempt=1), version=3) == 0
    rig.confirm()


def rotations(count: int) -> list[bytes]:
    """Trust documents 2, 3, ..: each with new roots, signed by their threshold and the one before."""
    made, before = [], ROOTS
    for version in range(2, 2 + count):
        after = [keypair(f"root {version} {i}") for i in range(3)]
        document = trust(version=version, roots=tuple(key.public_key for key in after))
        made.append(sign_trust(document.encode(), [*before[:2], *after[:2]]))
        before = after
    return made


def test_a_device_walks_a_chain_of_rotations_of_all_roots(rig: Rig) -> None:
    chain = rotations(5)
    for version, message in enumerate(chain, 2):
        rig.port.retained[topics.trust_version(version)] = message
    rig.deliver(topics.TRUST, chain[-1])
    assert rig.core.state().trust_version == 6
    assert refusal(rig) == "none"
    assert not any(topic.startswith("f1/trust/") for topic in rig.port.subscriptions)


def test_a_chain_with_a_missing_link_ends_before_it_and_goes_on_when_it_comes(rig: Rig) -> None:
    chain = rotations(4)
    for version in (2, 4, 5):
        rig.port.retained[topics.trust_version(version)] = chain[version - 2]
    rig.deliver(topics.TRUST, chain[-1])
    assert rig.core.state().trust_version == 2
    assert refusal(rig) == "trust"
    rig.deliver(topics.trust_version(3), chain[1])
    assert rig.core.state().trust_version == 5


@pytest.mark.parametrize("missing", ["old", "new"])
def test_a_rotation_needs_the_thresholds_of_the_old_and_of_the_new_roots(missing: str, rig: Rig) -> None:
    new = [keypair(f"new{i}") for i in range(3)]
    document = trust(version=2, roots=tuple(key.public_key for key in new))
    keys = [ROOTS[0], *new[:2]] if missing == "old" else [*ROOTS[:2], new[0]]
    assert rig.deliver(topics.TRUST, sign_trust(document.encode(), keys)) == -CODES["trust"]
    assert rig.core.state().trust_version == 1


def test_a_desired_document_of_a_trust_version_to_come_is_taken_when_that_came(rig: Rig) -> None:
    item = artifact(1)
    rig.stage(item)
    entry = DesiredEntry(Action.RUN, item.id, attempt=1)
    assert rig.want(entry, version=2) == -CODES["trust"]
    assert refusal(rig) == "trust"
    assert rig.slot().state == State.IDLE
    rig.give_trust(trust(version=2))
    assert rig.slot().state == State.TRIAL, "the retained document came again by itself"
    assert refusal(rig) == "none"


def test_nothing_is_taken_before_a_trust_document_is_held(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.start()
    item = artifact(1)
    rig.stage(item)
    assert rig.want(DesiredEntry(Action.RUN, item.id, attempt=1)) == -CODES["trust"]
    assert rig.command(CommandVerb.IDENTIFY) == -CODES["trust"]
    assert rig.core.state().desired_counter == 0
    rig.give_trust()
    assert rig.slot().state == State.TRIAL


# --- desired --------------------------------------------------------------------------------------


def test_a_desired_document_is_held_over_a_reset(rig: Rig) -> None:
    item = artifact(1)
    rig.stage(item)
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=7), config={ConfigKey.HEARTBEAT_S: 9})
    rig.confirm()
    rig.restart(connect=False)
    assert rig.slot().attempt == 7
    assert rig.core.state().config.heartbeat_s == 9


def test_the_same_desired_document_again_is_no_work(rig: Rig) -> None:
    rig.install(artifact(1))
    ops = rig.core.state().flash_ops
    for _ in range(3):
        rig.reconnect()
    assert rig.core.state().flash_ops == ops
    assert refusal(rig) == "none"


def test_an_old_desired_document_is_a_replay(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.stage(first)
    rig.stage(second)
    old = rig.desired_message({0: DesiredEntry(Action.RUN, first.id, attempt=1)})
    rig.install(second)
    assert rig.deliver(topics.desired(DEVICE), old) == -CODES["sequence"]
    assert refusal(rig) == "sequence"
    assert rig.slot().attempt == 1
    assert rig.slot().run_id == second.id[:16]
    rig.restart(Reset.POWER)
    assert rig.core.message(topics.desired(DEVICE), old) == -CODES["sequence"], "also after a reset"


def test_a_refusal_is_told_once_and_forgotten_with_the_next_good_document(rig: Rig) -> None:
    old = rig.desired_message({})
    rig.want()
    for _ in range(3):
        rig.core.message(topics.desired(DEVICE), old)
        rig.run()
    told = [event for event in rig.events() if event.kind.name == "REFUSAL"]
    assert [event.detail for event in told] == [(CODES["sequence"], 0)]
    rig.want()
    rig.run()
    assert refusal(rig) == "none"


def test_another_devices_document_is_refused_by_its_signature(rig: Rig) -> None:
    mine = rig.desired_message({})
    assert rig.core.message("f1/dev/dev-8/desired", mine) == -102
    assert rig.core.message(topics.cmd(DEVICE), mine) == -CODES["schema"], "nor as a command"


def test_an_expired_document_is_stale_and_what_runs_goes_on(rig: Rig) -> None:
    first, second = artifact(1), artifact(2)
    rig.install(first)
    rig.stage(second)
    assert rig.want(DesiredEntry(Action.RUN, second.id, attempt=2), expires=NOW - 5) == 0
    assert rig.core.state().stale
    assert rig.reports()[-1].is_stale
    assert rig.core.running(0) is not None
    rig.advance(5)
    assert rig.slot().run_id == first.id[:16], "nothing new is begun under it"
    rig.want(DesiredEntry(Action.RUN, second.id, attempt=2), expires=0)
    assert not rig.core.state().stale
    rig.confirm()


def test_a_document_goes_stale_while_it_is_held(rig: Rig) -> None:
    rig.want(expires=NOW + 10)
    assert not rig.core.state().stale
    rig.advance(15)
    assert rig.core.state().stale


def test_a_configuration_out_of_range_keeps_the_old_value_and_is_named(rig: Rig) -> None:
    rig.want(config={ConfigKey.HEARTBEAT_S: 20, ConfigKey.WINDOW_S: 5, ConfigKey.ALARM: (2, 4)})
    document = Desired(
        DEVICE, rig.next_counter(), 1, issued=NOW, config={1: 0, 2: 3601, 3: 50, 5: (5, 4), 12: 1, 31: (1, 2)}
    )
    aad = cose.external_aad(INSTALLATION, topics.desired(DEVICE))
    message = cose.sign1("desired", document.encode(), ONLINE, aad=aad)
    assert rig.deliver(topics.desired(DEVICE), message) == 0
    config = rig.core.state().config
    assert (config.heartbeat_s, config.window_s, config.alarm_k, config.alarm_n) == (20, 5, 2, 4)
    assert config.period_ms == 50, "a good value beside bad ones is taken"
    assert rig.reports()[-1].config_invalid == (1, 2, 5, 12, 31)


def test_what_a_document_does_not_say_is_the_default_again(rig: Rig) -> None:
    rig.want(config={ConfigKey.HEARTBEAT_S: 20, ConfigKey.WINDOW_S: 5, ConfigKey.ALARM: (2, 4)})
    rig.want()
    config = rig.core.state().config
    assert (config.heartbeat_s, config.window_s, config.alarm_k, config.alarm_n) == (300, 60, 3, 5)


# --- commands -------------------------------------------------------------------------------------


def test_identify_report_and_reboot(rig: Rig) -> None:
    reports = len(rig.reports())
    assert rig.command(CommandVerb.IDENTIFY) == 0
    assert rig.port.identified == 1
    assert rig.command(CommandVerb.REPORT_NOW) == 0
    assert len(rig.reports()) > reports
    assert rig.command(CommandVerb.REBOOT) == 0
    assert rig.port.reboots == 1
    assert results(rig) == [(1, 0), (5, 0), (2, 0)]


def test_a_command_runs_at_most_once(rig: Rig) -> None:
    rig.command(CommandVerb.IDENTIFY)
    counter = rig.core.state().cmd_counter
    assert rig.command(CommandVerb.IDENTIFY, counter=counter) == 0, "QoS 1 may deliver it twice"
    assert rig.port.identified == 1
    assert rig.command(CommandVerb.IDENTIFY, counter=counter - 1) == -CODES["sequence"]
    rig.restart()
    assert rig.command(CommandVerb.IDENTIFY, counter=counter) == -CODES["sequence"]
    assert rig.port.identified == 0


def test_the_counter_is_in_flash_before_the_verb_runs(rig: Rig) -> None:
    seen: list[int] = []
    reboot = rig.port.identify

    def identify() -> None:
        raw = rig.path.read_bytes()[4096 : 4096 + 8192]
        found = [raw[at : at + 512] for at in range(0, 8192, 512)]
        whole = [entry for entry in found if record.parse(entry)]
        seen.append(max(int.from_bytes(entry[48:56], "little") for entry in whole))
        reboot()

    rig.port.identify = identify  # type: ignore[method-assign]
    rig.command(CommandVerb.IDENTIFY)
    assert seen == [rig.core.state().cmd_counter]


def test_an_expired_command_does_nothing(rig: Rig) -> None:
    assert rig.command(CommandVerb.IDENTIFY, expires=NOW - 1) == -CODES["expired"]
    assert rig.port.identified == 0
    assert rig.core.state().cmd_counter == 0
    assert refusal(rig) == "expired"


@pytest.mark.parametrize("verb", [CommandVerb.PROBE_ARENA, CommandVerb.CAPTURE_WINDOW])
def test_a_verb_that_this_firmware_lacks_says_so(verb: CommandVerb, rig: Rig) -> None:
    rig.command(verb, 0)
    assert results(rig) == [(verb, CODES["unknown_action"])]
    assert refusal(rig) == "none"


class ProbingEngine(ScriptedEngine):
    """Says how little arena its models need."""

    def probe(self, slot: int, model: bytes, spec: Model) -> int:
        assert self.loaded[slot] == model
        self.calls.append("probe")
        return 9_000 + spec.seq


class CapturingPort(Port):
    """A board that can keep a window of raw input; its slots are kept in `watches`."""

    def capture(self, slot: int) -> None:
        self.watches.append(f"capture {slot}")


def test_an_arena_probe_answers_with_the_bytes_and_loads_the_model_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, engine=ProbingEngine())
    rig.start()
    rig.give_trust()
    rig.command(CommandVerb.PROBE_ARENA, 0)
    rig.offer(artifact(1))
    rig.command(CommandVerb.PROBE_ARENA, 0)
    rig.confirm()
    loads = rig.engine.calls.count("load")
    rig.command(CommandVerb.PROBE_ARENA, 0)
    found = [event for event in rig.events() if event.kind == EventKind.COMMAND_RESULT]
    assert [event.fields["code"] for event in found] == [CODES["not_in_bank"], CODES["busy"], 0]
    assert found[-1].fields["value"] == 9_001
    assert rig.engine.calls.count("load") == loads + 1
    assert rig.core.running(0) is not None


def test_a_capture_goes_to_the_port(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.port = CapturingPort()
    rig.core.close()
    rig.core = rig._open()
    rig.start()
    rig.give_trust()
    rig.install(artifact(1))
    rig.command(CommandVerb.CAPTURE_WINDOW, 0)
    rig.command(CommandVerb.CAPTURE_WINDOW, 2)
    assert results(rig) == [(7, 0), (7, CODES["not_in_bank"])]
    assert [line for line in rig.port.watches if line.startswith("capture")] == ["capture 0"]


def test_a_self_test_without_a_model_and_in_a_trial(rig: Rig) -> None:
    rig.command(CommandVerb.SELF_TEST, 0)
    rig.command(CommandVerb.SELF_TEST, 9)
    rig.offer(artifact(1))
    rig.command(CommandVerb.SELF_TEST, 0)
    codes = [CODES["not_in_bank"], CODES["not_in_bank"], CODES["busy"]]
    assert results(rig) == [(3, code) for code in codes]


def test_commands_of_a_rotated_online_key_are_refused(rig: Rig) -> None:
    rig.deliver(topics.TRUST, signed_trust(trust(version=2, online=(keypair("online2").public_key,))))
    assert rig.command(CommandVerb.IDENTIFY) == -CODES["signature"]
    assert rig.port.identified == 0


def test_what_the_old_trust_document_refused_is_judged_again_under_the_new_one(rig: Rig) -> None:
    late = keypair("late")
    rig.offer(artifact(1, signers=(late,)))
    assert rig.slot().code == CODES["signature"]
    rig.give_trust(trust(version=2, release=(late.public_key,)))
    assert rig.slot().state == State.TRIAL
