"""The reported document: what a device says it is, holds and does (SPEC.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.classes import (
    Firmware,
    Operator,
    encode_operators,
    opset_digest,
    parse_firmware,
    parse_operators,
)
from fleet.mqtt.codec.cose import MAX_UPLINK_BYTES
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import BankFlag, Chip, RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.shape import INT32_MAX, UINT16_MAX, UINT32_MAX, Shape

MAX_TRUST_VERSION = 2**23 - 1
MAX_CHUNKS = 1023
MAX_SLOT = 3
_SHAPE = Shape("range")
_NO_FLAGS = BankFlag(0)


@dataclass(frozen=True)
class BankReport:
    """What a bank of a slot holds. manifest_id: its first 16 bytes. bank: physical bank, 0 or 1."""

    manifest_id: bytes
    seq: int
    bank: int
    flags: BankFlag = _NO_FLAGS


@dataclass(frozen=True)
class SelfTest:
    """Result of the golden vectors: how many ran, how many fit, largest difference in LSB, median µs."""

    n: int = 0
    ok: int = 0
    max_diff: int = 0
    median_us: int = 0


@dataclass(frozen=True)
class SlotReport:
    """One slot of a device.

    state, code, detail, have and total belong to the newest accepted desired entry (target,
    attempt). have, total: chunks. target: 16 bytes or empty. failed_id: 8 bytes or empty. arena_used_bytes:
    measured on the device.
    """

    state: UpdateState
    code: RefusalCode = RefusalCode.NONE
    detail: int = 0
    have: int = 0
    total: int = 0
    attempt: int = 0
    target: bytes = b""
    run_bank: BankReport | None = None
    other_bank: BankReport | None = None
    failed_id: bytes = b""
    failed_attempt: int = 0
    arena_used_bytes: int = 0
    self_test: SelfTest = SelfTest()


@dataclass(frozen=True)
class Reported:
    """A parsed reported document. (boot, n) rises for one MAC key.

    unix_s: the device's time, 0 when it has none. operators: wire order. config_invalid: configuration keys
    whose value was out of range. refusal: the last document-level refusal (code, detail).
    """

    boot: int
    n: int
    unix_s: int
    class_id: bytes
    firmware: Firmware
    chip: Chip
    trust_version: int
    desired_counter: int
    command_counter: int
    is_stale: bool
    reset_reason: ResetReason
    reset_raw: int
    free_heap_bytes: int
    slots: dict[int, SlotReport]
    config_invalid: tuple[int, ...]
    operators: tuple[Operator, ...]
    firmware_text: str
    esp_nn: str
    refusal: RefusalCode = RefusalCode.NONE
    refusal_detail: int = 0

    @property
    def opset(self) -> bytes:
        """SHA-256 of the operator list."""
        return opset_digest(self.operators)

    @property
    def counter(self) -> tuple[int, int]:
        """(boot, n), what orders the reports of one device."""
        return self.boot, self.n


def encode_reported(report: Reported) -> bytes:
    """The payload bytes. Raises CodecError `range` or `too_large` where `parse_reported` would."""
    payload = encode(
        {
            0: 1,
            1: report.boot,
            2: report.n,
            3: report.unix_s,
            4: report.class_id,
            5: list(report.firmware),
            6: report.chip,
            7: report.opset,
            8: report.trust_version,
            9: report.desired_counter,
            10: report.command_counter,
            11: int(report.is_stale),
            12: [report.reset_reason, report.reset_raw],
            13: report.free_heap_bytes,
            14: {slot: _slot_item(entry) for slot, entry in report.slots.items()},
            15: list(report.config_invalid),
            16: encode_operators(report.operators),
            17: [report.firmware_text, report.esp_nn],
            18: [report.refusal, report.refusal_detail],
        }
    )
    parse_reported(payload)
    return payload


def parse_reported(payload: bytes) -> Reported:
    """Read the payload of an authentic reported document.

    Raises CodecError `too_large`, `cbor_bad`, `format_unknown` for another format number, and `range` for a
    missing or unknown key, a wrong type or a value out of range.
    """
    item = decode_strict(payload, max_bytes=MAX_UPLINK_BYTES["reported"])
    check_format(item)
    fields = _SHAPE.map(item, "reported", required=range(19))
    reset = _SHAPE.array(fields[12], "reset", least=2, most=2)
    texts = _SHAPE.array(fields[17], "versions", least=2, most=2)
    refusal = _SHAPE.array(fields[18], "refusal", least=2, most=2)
    operators = parse_operators(fields[16], "operators", _SHAPE)
    if _SHAPE.raw(fields[7], "operator set digest", 32) != opset_digest(operators):
        raise CodecError("range", "operator set digest does not fit the operator list")
    if type(fields[14]) is not dict:
        raise CodecError("range", "slots are not a map")
    slots = {_SHAPE.uint(slot, "slot", MAX_SLOT): _parse_slot(value) for slot, value in fields[14].items()}
    invalid = _SHAPE.array(fields[15], "invalid config keys", most=32)
    return Reported(
        boot=_SHAPE.uint(fields[1], "boot", INT32_MAX),
        n=_SHAPE.integer(fields[2], "n", 1, UINT32_MAX),
        unix_s=_SHAPE.uint(fields[3], "unix seconds", UINT32_MAX),
        class_id=_SHAPE.raw(fields[4], "class id", 16),
        firmware=parse_firmware(fields[5], "firmware version", _SHAPE),
        chip=Chip(_SHAPE.uint(fields[6], "chip", max(Chip))),
        trust_version=_SHAPE.uint(fields[8], "trust version", MAX_TRUST_VERSION),
        desired_counter=_SHAPE.uint(fields[9], "desired counter"),
        command_counter=_SHAPE.uint(fields[10], "command counter"),
        is_stale=bool(_SHAPE.uint(fields[11], "stale", 1)),
        reset_reason=ResetReason(_SHAPE.uint(reset[0], "reset reason", max(ResetReason))),
        reset_raw=_SHAPE.uint(reset[1], "raw reset reason", UINT32_MAX),
        free_heap_bytes=_SHAPE.uint(fields[13], "free heap", UINT32_MAX),
        slots=slots,
        config_invalid=tuple(_SHAPE.uint(key, "config key", 31) for key in invalid),
        operators=operators,
        firmware_text=_SHAPE.text(texts[0], "firmware version text", most=32),
        esp_nn=_SHAPE.text(texts[1], "esp-nn version", most=32),
        refusal=RefusalCode(_SHAPE.uint(refusal[0], "refusal", max(RefusalCode))),
        refusal_detail=_SHAPE.uint(refusal[1], "refusal detail", UINT32_MAX),
    )


def check_format(item: Any) -> None:
    """Refuse an uplink that is not a map (`range`) or whose key 0 is not format 1 (`format_unknown`)."""
    if type(item) is not dict:
        raise CodecError("range", "the payload is not a map")
    if type(item.get(0)) is not int or item[0] != 1:
        raise CodecError("format_unknown", "this format number is not known here")


def _slot_item(slot: SlotReport) -> list[Any]:
    test = slot.self_test
    return [
        slot.state,
        slot.code,
        slot.detail,
        slot.have,
        slot.total,
        slot.attempt,
        slot.target,
        _bank_item(slot.run_bank),
        _bank_item(slot.other_bank),
        slot.failed_id,
        slot.failed_attempt,
        slot.arena_used_bytes,
        [test.n, test.ok, test.max_diff, test.median_us],
    ]


def _bank_item(bank: BankReport | None) -> list[Any]:
    return [] if bank is None else [bank.manifest_id, bank.seq, bank.bank, int(bank.flags)]


def _parse_slot(value: Any) -> SlotReport:
    part = _SHAPE.array(value, "slot report", least=13, most=13)
    total = _SHAPE.uint(part[4], "total", MAX_CHUNKS)
    test = _SHAPE.array(part[12], "self-test", least=4, most=4)
    ran = _SHAPE.uint(test[0], "self-test n", UINT32_MAX)
    return SlotReport(
        state=UpdateState(_SHAPE.uint(part[0], "state", max(UpdateState))),
        code=RefusalCode(_SHAPE.uint(part[1], "code", max(RefusalCode))),
        detail=_SHAPE.uint(part[2], "detail", UINT32_MAX),
        have=_SHAPE.uint(part[3], "have", total),
        total=total,
        attempt=_SHAPE.uint(part[5], "attempt", UINT16_MAX),
        target=_SHAPE.raw(part[6], "target", 0, 16),
        run_bank=_parse_bank(part[7]),
        other_bank=_parse_bank(part[8]),
        failed_id=_SHAPE.raw(part[9], "failed id", 0, 8),
        failed_attempt=_SHAPE.uint(part[10], "failed attempt", UINT16_MAX),
        arena_used_bytes=_SHAPE.uint(part[11], "arena used", INT32_MAX),
        self_test=SelfTest(
            n=ran,
            ok=_SHAPE.uint(test[1], "self-test ok", ran),
            max_diff=_SHAPE.uint(test[2], "self-test difference", UINT32_MAX),
            median_us=_SHAPE.uint(test[3], "self-test median", UINT32_MAX),
        ),
    )


def _parse_bank(value: Any) -> BankReport | None:
    part = _SHAPE.array(value, "bank", most=4)
    if not part:
        return None
    _SHAPE.array(part, "bank", least=4)
    return BankReport(
        manifest_id=_SHAPE.raw(part[0], "bank manifest id", 16),
        seq=_SHAPE.uint(part[1], "bank seq", UINT32_MAX),
        bank=_SHAPE.uint(part[2], "physical bank", 1),
        flags=BankFlag(_SHAPE.uint(part[3], "bank flags", 3)),
    )
