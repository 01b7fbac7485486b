"""Vectors of `reported`."""

from __future__ import annotations

import hashlib
from typing import Any

from fleet.mqtt.codec.names import BankFlag, Chip, RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SelfTest, SlotReport, encode_reported
from tests.vectors import keys as k
from tests.vectors.collection import (
    Change,
    Collection,
    changed,
    edit,
    setting,
    without,
)
from tests.vectors.uplinks import Uplinks

OPERATORS = (3, 9, 25, "SignalWindow")


def base_reported() -> Reported:
    """A device that runs one model and downloads another."""
    slot = SlotReport(
        state=UpdateState.DOWNLOADING,
        have=2,
        total=3,
        attempt=1,
        target=k.MANIFEST_ID[:16],
        run_bank=BankReport(k.seed("running")[:16], 4, 0),
        other_bank=BankReport(k.seed("before")[:16], 3, 1, BankFlag.USABLE_FOR_REVERT),
        failed_id=k.seed("failed")[:8],
        failed_attempt=2,
        arena_used_bytes=15_000,
        self_test=SelfTest(2, 2, 1, 900),
    )
    return Reported(
        boot=7,
        n=12,
        unix_s=k.NOW,
        class_id=k.CLASS_ID,
        firmware=(1, 0, 0),
        chip=Chip.HOST,
        trust_version=3,
        desired_counter=3 << 40 | 5,
        command_counter=0,
        is_stale=False,
        reset_reason=ResetReason.POWER,
        reset_raw=1,
        free_heap_bytes=200_000,
        slots={0: slot, 1: SlotReport(UpdateState.IDLE)},
        config_invalid=(2, 6),
        operators=OPERATORS,
        firmware_text="1.0.0",
        esp_nn="none",
        refusal=RefusalCode.SEQUENCE,
        refusal_detail=1,
    )


def reported() -> Collection:
    """reported.json."""
    out = Uplinks("reported")
    payload = encode_reported(base_reported())
    out.payload("a slot that downloads, an idle slot", payload, "ok")
    out.payload("no slots", changed(payload, setting(14, {})), "ok")
    out.payload("no operators", changed(payload, edit({16: [], 7: hashlib.sha256(b"\x80").digest()})), "ok")
    out.faults(payload)
    for key in range(1, 19):
        out.payload(f"without key {key}", changed(payload, without(key)), "range")
    for name, key, value in (
        ("boot 2^31", 1, 2**31),
        ("n 0", 2, 0),
        ("a class id of 15 bytes", 4, bytes(15)),
        ("a firmware version of four numbers", 5, [1, 0, 0, 0]),
        ("chip 7", 6, 7),
        ("an operator digest of other operators", 7, bytes(32)),
        ("trust version 2^23", 8, 2**23),
        ("a negative counter", 9, -1),
        ("stale 2", 11, 2),
        ("reset reason 6", 12, [6, 0]),
        ("slot 4", 14, {4: []}),
        ("a slot by name", 14, {"a": []}),
        ("config keys of text", 15, ["a"]),
        ("a firmware text with a control code", 17, ["1.0\n", ""]),
        ("refusal 29", 18, [29, 0]),
        ("refusal 64, which devices never send", 18, [64, 0]),
    ):
        out.payload(f"with {name}", changed(payload, setting(key, value)), "range")
    for name, index, value in (
        ("state 11", 0, 11),
        ("code 29", 1, 29),
        ("more chunks than there are", 3, 4),
        ("1024 chunks", 4, 1024),
        ("attempt 65,536", 5, 65_536),
        ("a target of 8 bytes", 6, bytes(8)),
        ("a bank of three numbers", 7, [bytes(16), 1, 0]),
        ("physical bank 2", 8, [bytes(16), 1, 2, 0]),
        ("bank flags 4", 8, [bytes(16), 1, 1, 4]),
        ("a failed id of 16 bytes", 9, bytes(16)),
        ("an arena of 2^31", 11, 2**31),
        ("more self-tests passed than run", 12, [1, 2, 0, 0]),
    ):
        out.payload(f"a slot with {name}", changed(payload, _in_slot(index, value)), "range")
    return out


def _in_slot(index: int, value: Any) -> Change:
    return lambda item: item[14][0].__setitem__(index, value)
