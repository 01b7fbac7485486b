"""The C core and the reference model are in the same state after every event of random lives.

FLEET_REFERENCE_EXAMPLES (default 40) lives of up to 40 events; the default is the same in every run, with the
variable set they are random. Events: desired documents of every action, repeats and replays, commands, trust
documents, withheld chunks, boards that defer, inferences good and bad, resets of every reason, and power
cuts at any flash operation. A failing life is shortened with FLEET_REFERENCE_SHRINK set: it takes minutes.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from device_firmware.host.core import CODES, CutMode, Reset, exit_cut
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, CommandVerb
from fleet.mqtt.codec.reported import Reported, parse_reported
from ota.desired import DesiredEntry
from ota.trust import NameRule
from tests.firmware import artifacts, record
from tests.firmware.artifacts import artifact
from tests.firmware.played import ScriptedEngine
from tests.firmware.reference.model import Device, Phase, Target, Version
from tests.firmware.rig import Rig

EXAMPLES = int(os.environ.get("FLEET_REFERENCE_EXAMPLES", "40"))
BAD = b"BAD"
CODE_NAMES = {number: name for name, number in CODES.items() if number} | {0: ""}
ACTIONS = {"run": Action.RUN, "back": Action.RUN_OTHER_BANK}


class JudgedEngine(ScriptedEngine):
    """Outputs of a model whose bytes begin with BAD are off."""

    def invoke(self, slot: int, inputs: Any) -> tuple[list[bytes], int]:
        self.offset = 40 if self.loaded[slot].startswith(BAD) else 0
        return super().invoke(slot, inputs)


def _artifacts() -> list[artifacts.Artifact]:
    """Seven versions of one name: floors rise, two are bad, two have the same seq."""
    made = []
    for seq, floor, mark in (
        (1, 0, b"a"),
        (2, 0, b"b"),
        (3, 2, b"c"),
        (3, 2, b"d"),
        (4, 0, BAD),
        (5, 4, b"e"),
        (6, 0, BAD),
    ):
        data = (mark + bytes([seq])) * 2_500
        made.append(artifact(seq, floor=floor, data=data[:5_000]))
    return made


ARTIFACTS = _artifacts()
VERSIONS = [
    Version(item.id, item.manifest.seq, item.manifest.floor, not item.data.startswith(BAD))
    for item in ARTIFACTS
]
BY_ID = {version.id: item for version, item in zip(VERSIONS, ARTIFACTS, strict=True)}


class Lives(RuleBasedStateMachine):
    """Each rule does the same to the device and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), engine=JudgedEngine())
        self.rig.start()
        assert self.rig.give_trust() == 0
        for item in ARTIFACTS:
            self.rig.stage(item)
        self.model = Device()
        self.attempt = 0
        self.old: list[bytes] = []

    def teardown(self) -> None:
        self.rig.core.close()
        self.folder.cleanup()

    # --- desired documents --------------------------------------------------------------------

    def _target(self, action: str, version: Version | None) -> tuple[Target | None, dict[int, DesiredEntry]]:
        if action == "none":
            return None, {}
        self.attempt += 1
        made = Target(action, None if action == "stop" else version, self.attempt)
        if made.version is None:
            return made, {0: DesiredEntry(Action.STOP, attempt=self.attempt)}
        return made, {0: DesiredEntry(ACTIONS[action], made.version.id, attempt=self.attempt)}

    def _message(self, entries: dict[int, DesiredEntry]) -> bytes:
        message = self.rig.desired_message(entries, version=self.model.trust_version)
        self.old.append(message)
        return message

    def _counter(self) -> int:
        """Of the message made last; `next_counter` counted it."""
        return self.model.trust_version << 40 | self.rig.unix << 8 | self.rig.counter

    @rule(
        action=st.sampled_from(["run", "run", "run", "run", "back", "back", "stop", "none"]),
        number=st.integers(0, len(VERSIONS) - 1),
    )
    def desired(self, action: str, number: int) -> None:
        self._desire(action, VERSIONS[number])

    def _desire(self, action: str, version: Version | None) -> None:
        target, entries = self._target(action, version)
        assert self.rig.deliver(topics.desired(artifacts.DEVICE), self._message(entries)) == 0
        self.model.on_desired(target, self._counter())
        self._settle()

    @precondition(lambda self: self.model.is_usable)
    @rule()
    def desired_back(self) -> None:
        version = next(item for item in VERSIONS if item.id[:16] == self.model.other)
        self._desire("back", version)

    @precondition(lambda self: self.model.target is not None)
    @rule()
    def desired_again_with_a_higher_attempt(self) -> None:
        target = self.model.target
        assert target
        self._desire(target.action, target.version)

    @precondition(lambda self: self.old)
    @rule()
    def the_same_document_twice(self) -> None:
        assert self.rig.core.message(topics.desired(artifacts.DEVICE), self.old[-1]) == 0
        self._settle()

    @precondition(lambda self: len(self.old) > 1)
    @rule(which=st.integers(0, 100))
    def an_old_document_is_replayed(self, which: int) -> None:
        replayed = self.old[which % (len(self.old) - 1)]
        assert self.rig.core.message(topics.desired(artifacts.DEVICE), replayed) in (
            -CODES["sequence"],
            -CODES["trust"],
        )
        self._settle()

    # --- commands and trust ---------------------------------------------------------------------

    @rule(repeats=st.booleans())
    def a_command(self, repeats: bool) -> None:
        counter = self._command(CommandVerb.REPORT_NOW)
        if repeats:
            version = self.model.trust_version
            again = self.rig.command(CommandVerb.REPORT_NOW, trust_version=version, counter=counter)
            assert again == 0, "QoS 1 may deliver it twice"
        self._settle()

    def _command(self, verb: CommandVerb) -> int:
        """Send a command that is accepted; its counter."""
        counter = self.rig.next_counter(self.model.trust_version)
        assert self.rig.command(verb, trust_version=self.model.trust_version, counter=counter) == 0
        self.model.on_command(counter)
        return counter

    @rule(least=st.sampled_from([0, 0, 2, 3]))
    def a_trust_document(self, least: int) -> None:
        version = self.model.trust_version + 1
        names = (NameRule("har", least),) if least else ()
        assert self.rig.give_trust(artifacts.trust(version=version, names=names)) == 0
        self.model.on_trust(version, least)
        self._settle()

    @rule()
    def a_trust_document_of_one_root(self) -> None:
        document = artifacts.signed_trust(
            artifacts.trust(version=self.model.trust_version + 1), artifacts.ROOTS[:1]
        )
        assert self.rig.core.message(topics.TRUST, document) == -CODES["trust"]
        self._settle()

    # --- the world --------------------------------------------------------------------------------

    @rule()
    def the_broker_withholds_a_chunk(self) -> None:
        self._set_network(withholds=True)
        self.model.on_network(True)
        self._settle()

    @rule(seed=st.integers(0, 1000))
    def the_broker_sends_everything_in_a_mess(self, seed: int) -> None:
        """Duplicates, strange bytes for chunks, any order; then the connection is made anew."""
        noise = random.Random(seed)

        def alter(topic: str, payload: bytes) -> bytes | None:
            if "/0/" in topic and noise.random() < 0.5:
                self.rig.port.inbox.append(
                    (topic, noise.choice([payload, payload[:-1], b"", bytes(len(payload))]))
                )
                noise.shuffle(self.rig.port.inbox)
            return payload

        self.rig.port.alter = alter
        self.rig.reconnect()
        self.rig.advance(3)
        self._set_network(withholds=False)
        self.rig.reconnect()
        self.model.on_network(False)
        self._settle()

    def _set_network(self, *, withholds: bool) -> None:
        self.rig.port.alter = lambda topic, payload: None if withholds and topic.endswith("/0/1") else payload

    @rule(reason=st.sampled_from(["", "", "low_power", "low_heap", "busy"]))
    def the_board(self, reason: str) -> None:
        self.rig.port.refuse_switch = reason or None
        self.model.on_board(reason)
        self._settle()

    @rule(count=st.sampled_from([1, 3, 3, 3, 5]))
    def inferences(self, count: int) -> None:
        self.rig.infer(count)
        self.model.on_inferences(count)
        self._settle()

    @precondition(lambda self: self.model.phase is Phase.TRIAL)
    @rule()
    def an_inference_that_fails(self) -> None:
        self.rig.core.sample(0, us=1, failed=True)
        self.model.on_inferences(0, is_failing=True)
        self._settle()

    @rule(reason=st.sampled_from(list(Reset)))
    def a_reset(self, reason: Reset) -> None:
        self.rig.restart(reason)
        self.model.on_reset(reason.name)
        self._settle()

    @rule()
    def a_reboot_that_is_asked_for(self) -> None:
        self._command(CommandVerb.REBOOT)
        assert self.rig.port.reboots == 1
        self.rig.restart(Reset.EXPECTED)
        self.model.on_reset("EXPECTED", is_asked_for=True)
        self._settle()

    # From a settled state: else what the old entry does in between depends on where the cut falls. c/cuts.c
    # cuts the rest.
    @precondition(lambda self: self.model.phase is not Phase.TRIAL)
    @precondition(lambda self: self.model.state in ("IDLE", "CONFIRMED", "REVERTED"))
    @rule(
        number=st.integers(0, len(VERSIONS) - 1),
        operations=st.integers(1, 14),
        how=st.sampled_from(list(CutMode)),
    )
    def the_power_goes_during_an_offer(self, number: int, operations: int, how: CutMode) -> None:
        """A child process is the device until the cut; its flash file is what is left."""
        target, entries = self._target("run", VERSIONS[number])
        message = self._message(entries)
        self.rig.port.retained[topics.desired(artifacts.DEVICE)] = message
        self.rig.core.close()
        child = os.fork()
        if child == 0:
            self._live_until_cut(operations, how)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, exit_cut()), status
        self.rig.restart(Reset.POWER)
        # The document was there before this start or came behind it; a trial that began before counted it.
        self.model.on_reset("POWER")
        self.model.on_desired(target, self._counter())
        if self.model.phase is Phase.TRIAL:
            self.model.cuts = self.rig.slot().cuts
            assert self.model.cuts in (0, 1)
        self._settle()

    def _live_until_cut(self, operations: int, how: CutMode) -> None:
        status = 1
        try:
            self.rig.core = self.rig._open()
            self.rig.core.seed(operations)
            self.rig.core.boot(Reset.POWER)
            self.rig.core.cut_after(operations, how)
            self.rig.core.link(True, True)
            self.rig.run()
            status = 0
        finally:
            os._exit(status)

    # --- what is compared ---------------------------------------------------------------------------

    def _settle(self) -> None:
        self.rig.run()
        self.rig.advance(3, step_ms=500)

    @invariant()
    def they_are_in_the_same_state(self) -> None:
        model, slot, state = self.model, self.rig.slot(), self.rig.core.state()
        running = self.rig.core.running(0)
        assert (slot.state.name, CODE_NAMES[slot.code]) == (model.state, model.code)
        assert slot.run_id == (model.run.id[:16] if model.run else bytes(16))
        assert slot.other_id == model.other
        assert (running.id if running else None) == (model.running.id if model.running else None)
        assert (slot.attempts, slot.cuts) == (model.attempts, model.cuts)
        assert (slot.failed_id, slot.failed_attempt) == model.failed[:2]
        assert (bool(slot.flags & 1), bool(slot.flags & 2)) == (model.is_usable, model.is_stopped)
        assert (state.trust_version, state.desired_counter) == (model.trust_version, model.desired_counter)
        assert (state.cmd_counter, state.panics, state.safe_mode) == (
            model.cmd_counter,
            model.panics,
            model.is_safe,
        )
        if model.state == "DOWNLOADING":
            assert (slot.have, slot.total) == (model.have, 2)
        names = record.newest(self.rig.path).names
        assert [(seq, floor) for _, _, seq, floor in names] == (
            [(model.seq, model.floor)] if model.seq else []
        )

        self._check_report()

    def _check_report(self) -> None:
        model, found = self.model, self._last_report().slots[0]
        assert (found.state.name, "" if found.code.name == "NONE" else found.code.name.lower()) == (
            model.state,
            model.code,
        )
        target = model.target
        wanted = target.version.id[:16] if target and target.version else b""
        assert found.target == wanted
        assert (found.run_bank.manifest_id if found.run_bank else None) == (
            model.run.id[:16] if model.run else None
        )

    def _last_report(self) -> Reported:
        topic = topics.device(artifacts.DEVICE, "reported")
        sent = self.rig.port.sent
        self.rig.port.sent = [item for item in sent if item[0] == topic][-1:]
        found = self.rig._open_uplinks("reported")[-1]
        return parse_reported(found)


@pytest.mark.timeout(6 * 3600 if "FLEET_REFERENCE_EXAMPLES" in os.environ else 300)
def test_the_core_and_the_reference_live_the_same_lives() -> None:
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=EXAMPLES,
            phases=[
                HypothesisPhase.generate,
                *([HypothesisPhase.shrink] if "FLEET_REFERENCE_SHRINK" in os.environ else []),
            ],
            stateful_step_count=40,
            deadline=None,
            derandomize="FLEET_REFERENCE_EXAMPLES" not in os.environ,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
