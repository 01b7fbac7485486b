"""What a device does, in a page of Python: the update machine of DESIGN.md without flash, bytes and time.

The model moves from one quiet state to the next: an event happens, and with it all that follows from it at
once. It knows nothing of the C core; `test_reference.py` compares the two after each event. One slot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

ATTEMPTS, CUTS, PANICS = 2, 16, 3
"""Panics and power losses in a trial before a candidate is given up; panics in a row for safe mode."""


class Phase(Enum):
    """What a record remembers."""

    EMPTY, CONFIRMED, FETCH, TRIAL = range(4)


@dataclass(frozen=True)
class Version:
    """One model version that somebody signed. is_good: its golden vectors come out on the device."""

    id: bytes
    seq: int
    floor: int
    is_good: bool

    def __repr__(self) -> str:
        """Short, for the steps that Hypothesis prints."""
        return f"<{'good' if self.is_good else 'bad'} {self.seq} {self.id[:2].hex()}>"


@dataclass(frozen=True)
class Target:
    """A desired entry. action: run, back (run from the other bank) or stop."""

    action: str
    version: Version | None
    attempt: int


@dataclass
class Bank:
    """What a bank holds: a version's manifest, and in its two chunks' sectors perhaps another's."""

    version: Version | None = None
    sectors: list[Version | None] = field(default_factory=lambda: [None, None])


@dataclass
class Device:
    """A device with one slot. Facts that survive a reset come first."""

    phase: Phase = Phase.EMPTY
    run: Version | None = None
    other: bytes = bytes(16)
    is_usable: bool = False
    is_stopped: bool = False
    attempts: int = 0
    cuts: int = 0
    panics: int = 0
    failed: tuple[bytes, int, str] = (bytes(8), 0, "")
    seq: int = 0
    floor: int = 0
    seq_id: bytes = b""
    trust_version: int = 1
    least_seq: int = 0
    desired_counter: int = 0
    cmd_counter: int = 0
    target: Target | None = None
    run_bank: Bank = field(default_factory=Bank)
    idle_bank: Bank = field(default_factory=Bank)
    # --- forgotten by a reset
    state: str = "IDLE"
    code: str = ""
    have: int = 0
    is_given_up: bool = False
    is_safe: bool = False
    running: Version | None = None
    inferences: int = 0
    trial_attempt: int = 0
    # --- the world around
    withholds: bool = False
    board: str = ""

    # --- events ------------------------------------------------------------------------------

    def on_desired(self, target: Target | None, counter: int) -> None:
        """A newer desired document was accepted."""
        self.desired_counter = counter
        is_same = self.target == target
        self.target = target
        if is_same:
            return
        self.is_given_up = False
        if self.phase is Phase.TRIAL:
            if not target or target.version == self.idle_bank.version:
                self._name_trial()
                self._show("TRIAL")
            else:
                self._show("OFFERED")
        else:
            self.have = 0
            self.look()

    def on_command(self, counter: int) -> None:
        """A command was accepted."""
        self.cmd_counter = counter

    def on_trust(self, version: int, least_seq: int) -> None:
        """A newer trust document was accepted: what keys, dates or seq refused is judged again."""
        self.trust_version, self.least_seq = version, least_seq
        if self.code in ("signature", "trust", "expired", "sequence") and self.state == "REFUSED":
            self.is_given_up = False
        if self.phase is not Phase.TRIAL and self.state not in ("DOWNLOADING", "DEFERRED"):
            self.look()

    def on_network(self, withholds: bool) -> None:
        """Chunk 1 of every model is withheld, or comes again over a new connection."""
        self.withholds = withholds
        if not withholds and self.state == "DOWNLOADING":
            self._fetch()

    def on_board(self, reason: str) -> None:
        """The board defers a switch (`low_power` ..), or does not any more."""
        self.board = reason
        if self.state == "DEFERRED":
            self._switch()

    def on_inferences(self, count: int, *, is_failing: bool = False) -> None:
        """Inferences of what runs, then a few seconds with a report acknowledged."""
        if self.phase is not Phase.TRIAL:
            return
        if is_failing:
            self._fail("load_failed")
            return
        self.inferences += count
        if self.inferences >= 3:
            self._confirm()

    def on_reset(self, reason: str, *, is_asked_for: bool = False) -> None:
        """A start after a reset. is_asked_for: a commanded reboot; as in sleep, probation goes on."""
        if reason == "EXPECTED" and not is_asked_for:
            reason = "PANIC"
        is_crash, is_power = reason in ("PANIC", "WATCHDOG"), reason in ("POWER", "BROWNOUT")
        is_trial = self.phase is Phase.TRIAL
        if not is_trial:
            self.panics = self.panics + 1 if is_crash else 0 if reason == "POWER" else self.panics
        self.is_safe, self.is_given_up = self.panics >= PANICS, False
        self.running = None
        self.state, self.code = ("OFFERED", "") if self.target else ("IDLE", "")
        if not (is_trial and (is_asked_for or reason == "SLEEP")):
            self.inferences = 0
        if is_trial:
            self._name_trial()
            self.attempts += is_crash
            self.cuts += is_power
            if is_crash and self.attempts >= ATTEMPTS:
                self._give_up("watchdog" if reason == "WATCHDOG" else "crash_loop")
            elif is_power and self.cuts >= CUTS:
                self._give_up("low_power")
            else:
                self._test()
                return
        self._load_confirmed()
        self.look()

    # --- what follows ------------------------------------------------------------------------

    def look(self) -> None:
        """Compare the slot with its target, and begin what follows."""
        target = self.target
        rest = Phase.CONFIRMED if self.run else Phase.EMPTY
        if target is None:
            self.phase = rest
            self._show("IDLE")
        elif target.action == "stop":
            self.phase, self.is_stopped, self.running = rest, True, None
            self._show("CONFIRMED")
        elif self.run and target.version == self.run:
            self.phase, was_stopped, self.is_stopped = rest, self.is_stopped, False
            if was_stopped:
                self._load_confirmed()
            self._show(*(("REFUSED", "crash_loop") if self.is_safe else ("CONFIRMED", "")))
        elif target.version and self.failed[0] == target.version.id[:8] and target.attempt <= self.failed[1]:
            self._show("REVERTED", self.failed[2])
        elif not self.is_given_up:
            self._begin()

    def _begin(self) -> None:
        target = self.target
        assert target
        version = target.version
        assert version
        is_held = self.is_usable and self.other == version.id[:16]
        if target.action == "back" and not is_held:
            self._refuse("not_in_bank")
            return
        refused = self._judge(target)
        if refused:
            self._refuse(refused)
            return
        if is_held:
            self.have = 2
            self._switch()
            return
        self.phase, self.other, self.is_usable = Phase.FETCH, version.id[:16], False
        self.idle_bank.version = version
        self._fetch()

    def _judge(self, target: Target) -> str:
        """Why the target's version may not run here, or nothing."""
        version = target.version
        assert version
        if version.seq < self.floor:
            return "floor"
        is_older = version.seq < self.seq or (version.seq == self.seq and version.id != self.seq_id)
        if version.seq < self.least_seq or (target.action == "run" and is_older):
            return "sequence"
        return ""

    def _fetch(self) -> None:
        bank = self.idle_bank
        bank.sectors = [bank.version, bank.sectors[1] if self.withholds else bank.version]
        self.have = bank.sectors.count(bank.version)
        if self.have < 2:
            self._show("DOWNLOADING")
        else:
            self._switch()

    def _switch(self) -> None:
        assert self.target
        assert self.target.version
        if self.board:
            self._show("DEFERRED", self.board)
            return
        refused = self._judge(self.target)  # again: trust went on while it waited
        if refused:
            self._refuse(refused)
            return
        self.phase, self.attempts, self.cuts, self.inferences = Phase.TRIAL, 0, 0, 0
        self.other = self.target.version.id[:16]
        self._name_trial()
        self._test()

    def _name_trial(self) -> None:
        """A failure will be that of the attempt that asks for the candidate when its trial starts."""
        target = self.target
        self.trial_attempt = target.attempt if target and target.version == self.idle_bank.version else 0

    def _test(self) -> None:
        candidate = self.idle_bank.version
        assert candidate
        if not self.target or self.target.version == candidate:
            self._show("TRIAL")
        if candidate.seq < max(self.floor, self.least_seq):
            self._fail("floor" if candidate.seq < self.floor else "sequence")
        elif not candidate.is_good:
            self._fail("selftest_mismatch")
        else:
            self.running = candidate
            if self.inferences >= 3:
                self._confirm()

    def _confirm(self) -> None:
        candidate, old = self.idle_bank.version, self.run
        assert candidate
        self.phase, self.run, self.running = Phase.CONFIRMED, candidate, candidate
        self.run_bank, self.idle_bank = self.idle_bank, self.run_bank
        self.other, self.is_usable = (old.id[:16], True) if old else (bytes(16), False)
        self.is_stopped, self.is_safe = False, False
        self.attempts = self.cuts = self.panics = 0
        if self.failed[0] == candidate.id[:8]:
            self.failed = (bytes(8), 0, self.failed[2])
        if candidate.seq >= self.seq:
            self.seq, self.seq_id = candidate.seq, candidate.id
        self.floor = max(self.floor, candidate.floor)
        self.look()

    def _give_up(self, code: str) -> None:
        """The record of a failed trial."""
        candidate = self.idle_bank.version
        assert candidate
        self.failed = (candidate.id[:8], self.trial_attempt, code)
        self.phase = Phase.CONFIRMED if self.run else Phase.EMPTY
        self.is_usable = False
        self.attempts = self.cuts = 0

    def _fail(self, code: str) -> None:
        self._give_up(code)
        self._load_confirmed()
        self.look()

    def _load_confirmed(self) -> None:
        self.running = None if self.is_safe or self.is_stopped else self.run

    def _refuse(self, code: str) -> None:
        if self.phase is Phase.FETCH:
            self.phase = Phase.CONFIRMED if self.run else Phase.EMPTY
        self.is_given_up = True
        self._show("REFUSED", code)

    def _show(self, state: str, code: str = "") -> None:
        self.state, self.code = state, code
