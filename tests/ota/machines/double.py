"""A small honest stand-in for a device, at the wire: signed documents in, sealed reports out, as bytes.

It follows SPEC.md step by step, so that a test can stop it anywhere, cut its power, or let it lie.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fleet.mqtt.client import Arrived
from fleet.mqtt.codec.names import Action, BankFlag, Chip, RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SelfTest, SlotReport
from ota.desired import verify_desired
from ota.trust import TrustDocument
from tests.devices.makers import Board

CHUNKS = 8
S = UpdateState
WAY = (S.OFFERED, S.MANIFEST_OK, S.DOWNLOADING, S.DOWNLOADED, S.VERIFIED, S.TRIAL, S.CONFIRMED)
Fault = tuple[UpdateState, RefusalCode]


@dataclass
class Double:
    """One device with one slot. run, other, target: 16-byte ids, b"" for none. faults: target -> end.

    changes: how often the running bank changed under each desired counter.
    """

    board: Board
    class_id: bytes
    trust: TrustDocument
    run: bytes = b""
    other: bytes = b""
    boot: int = 1
    n: int = 0
    counter: int = 0
    state: UpdateState = S.IDLE
    code: RefusalCode = RefusalCode.NONE
    have: int = 0
    attempt: int = 0
    target: bytes = b""
    action: Action = Action.RUN
    is_stopped: bool = False
    is_online: bool = True
    is_liar: bool = False
    telemetry_seq: int = 0
    faults: dict[bytes, Fault] = field(default_factory=dict)
    changes: Counter[int] = field(default_factory=Counter)

    @property
    def id(self) -> str:
        """Its device id."""
        return self.board.id

    def hear(self, message: bytes) -> bool:
        """Take a signed desired document; False for an old one, and while a trial is under way, which ends
        first.
        """
        desired = verify_desired(
            message,
            trust=self.trust,
            installation_id=self.board.installation,
            device_id=self.id,
            last_counter=0,
        )
        entry = desired.entries.get(0)
        if desired.counter <= self.counter or entry is None or self.state == S.TRIAL:
            return False
        self.counter = desired.counter
        target = entry.manifest_id[:16] if any(entry.manifest_id) else b""
        if (target, entry.attempt, entry.action) == (self.target, self.attempt, self.action):
            return True
        self.action, self.target, self.attempt, self.have = entry.action, target, entry.attempt, 0
        self.code = RefusalCode.NONE
        if self.action == Action.STOP:
            self.is_stopped, self.state = True, S.IDLE
        elif target == self.run and not self.is_stopped:
            self.state = S.CONFIRMED
        elif target == self.other:
            self.state = S.VERIFIED
        elif self.action == Action.RUN_OTHER_BANK:
            self.state, self.code = S.REFUSED, RefusalCode.NOT_IN_BANK
        else:
            self.state = S.OFFERED
        return True

    def step(self) -> bool:
        """Go one state on; False when there is nothing left to do."""
        if self.state not in WAY[:-1]:
            return False
        self.state = WAY[WAY.index(self.state) + 1]
        fault = self.faults.get(self.target)
        if self.state == S.DOWNLOADING:
            self.have = CHUNKS // 2
        elif self.state == S.DOWNLOADED:
            self.have = CHUNKS
        if fault and self.state == (S.CONFIRMED if fault[0] == S.REVERTED else S.DOWNLOADING):
            self.state, self.code = fault
        elif self.state == S.CONFIRMED:
            self.run, self.other, self.is_stopped = self.target, self.run, False
            self.changes[self.counter] += 1
        return True

    def recover(self) -> None:
        """What made it defer is over: it goes on by itself."""
        if self.state == S.DEFERRED:
            self.state, self.code = S.DOWNLOADING, RefusalCode.NONE

    def reboot(self) -> None:
        """Lose power: what was said is forgotten, what is in flash stays."""
        self.boot, self.n = self.boot + 1, 0

    def crash_after_confirm(self) -> bool:
        """Go back to the other bank by itself, as a crash loop of a confirmed model does."""
        if self.state != S.CONFIRMED or not self.other or not self.target or self.run != self.target:
            return False
        self.run, self.other = self.other, self.run
        self.state, self.code = S.REVERTED, RefusalCode.CRASH_LOOP
        return True

    def slot(self, **changes: Any) -> SlotReport:
        """Its slot as it is, or as a lie says."""
        flags = BankFlag.STOPPED if self.is_stopped else BankFlag(0)
        runs = BankReport(self.run, 1, 0, flags) if self.run else None
        holds = BankReport(self.other, 1, 1, BankFlag.USABLE_FOR_REVERT) if self.other else None
        fields: dict[str, Any] = {
            "state": self.state,
            "code": self.code,
            "have": self.have,
            "total": CHUNKS,
            "attempt": self.attempt,
            "target": self.target,
            "run_bank": runs,
            "other_bank": holds,
            "self_test": SelfTest(4, 4, 0, 900) if self.run else SelfTest(),
        }
        return SlotReport(**fields | changes)

    def report(self, slots: dict[int, SlotReport] | None = None, **changes: Any) -> Reported:
        """The next reported document, before it is sealed."""
        self.n += 1
        fields: dict[str, Any] = {
            "boot": self.boot,
            "n": self.n,
            "unix_s": 1,
            "class_id": self.class_id,
            "firmware": (1, 0, 0),
            "chip": Chip.HOST,
            "trust_version": self.trust.version,
            "desired_counter": self.counter,
            "command_counter": 0,
            "is_stale": False,
            "reset_reason": ResetReason.POWER,
            "reset_raw": 0,
            "free_heap_bytes": 100_000,
            "slots": slots if slots is not None else {0: self.slot()},
            "config_invalid": (),
            "operators": (),
            "firmware_text": "1.0.0",
            "esp_nn": "",
        }
        return Reported(**fields | changes)

    def says(self, **changes: Any) -> Arrived:
        """The next report as the broker hands it to the gateway."""
        return self.board.reported(self.report(**changes))
