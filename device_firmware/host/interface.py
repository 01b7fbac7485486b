"""What the core and its callers share: codes, states, identities, and what ports and engines provide."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.mqtt.codec.names import Phase as Phase
from fleet.mqtt.codec.names import RefusalCode, ResetReason, UpdateState

ERR_PORT = -100
ERR_FULL = -101

Reset = ResetReason
State = UpdateState
CODES: dict[str, int] = {code.label: code.value for code in RefusalCode}
CODE_NAMES: dict[int, str] = {number: name for name, number in CODES.items()}


class CutMode(enum.IntEnum):
    """What a simulated power cut leaves of the flash operation it hits."""

    NOTHING = 0
    TORN = 1
    DONE = 2


class Area(enum.IntEnum):
    """Flash areas; a slot's bank is BANK0 + 2 * slot + bank."""

    META = 0
    FW_HDR = 1
    FW_IMG = 2
    BANK0 = 3


class CoreError(Exception):
    """The core refused a call; `code` is a name of SPEC.md section 5, or `port`, `full`, `internal`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class EngineError(Exception):
    """Raised by an `Engine` to answer with a code of SPEC.md section 5: `load_failed`, `op_missing`, .."""

    def __init__(self, code: str, text: str = "") -> None:
        super().__init__(f"{code}: {text}" if text else code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a manifest's input or output contract."""

    dtype: int
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Model:
    """A manifest the core has checked. Hints it lacks are 0; `id` is SHA-256 of the signed message."""

    id: bytes
    name: str
    version: str
    seq: int
    floor: int
    size: int
    arena: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    window: int
    hop: int
    channels: int
    reset_policy: int
    variables: int
    latency_us: int
    head: int
    classes: int
    anomaly_kind: int
    anomaly_threshold: int
    labels: bytes

    @property
    def mid(self) -> str:
        """The id as it stands in topics: 16 hex digits."""
        return self.id[:8].hex()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the pipeline made of one window.

    scores: class scores in 1e-4. anomaly: score of kinds 1 and 2 in 1e-3, None without one. decision: the
    class decided on at this window, -1 for none. gaps, dropped: jumps and lost hops before it. resets: of
    streaming state. clamped: input elements outside the tensor's range; faults: of them no number.
    """

    failed: bool
    us: int
    scores: tuple[int, ...]
    anomaly: int | None
    decision: int
    gaps: int
    dropped: int
    resets: int
    clamped: int
    faults: int


@dataclass(frozen=True, slots=True)
class Ident:
    """What a device is: identity from enrolment, abilities from its class.

    operators: builtin codes rising, then (32, name) pairs by name (SPEC.md section 6, manifest 12). boot: the
    number of this boot, stored by the caller. slot_capacity: bytes for model and golden blob, whole
    chunks, 0 = no slot. heap_floor: with less free heap no model is switched and none gets through probation.
    """

    device_id: str
    installation_id: bytes
    class_id: bytes
    roots: tuple[bytes, ...]
    root_threshold: int
    mac_key: bytes
    boot: int
    firmware_version: str = "1.0.0"
    esp_nn: str = "none"
    chip: int = 0
    least_trust_version: int = 1
    operators: tuple[int | tuple[int, str], ...] = ()
    arena_bytes: int = 128 * 1024
    heap_floor: int = 0
    slot_capacity: tuple[int, ...] = (376832,)
    probation_n: int = 5
    probation_s: int = 5


class Engine(Protocol):
    """Runs models for the core. `EngineError(code)` refuses; any other exception counts as load_failed.

    An engine may also have `probe(slot, model, spec) -> int`, the smallest arena that the loaded model needs;
    without it the command `probe arena` answers `unknown_action`.
    """

    def check(self, model: bytes) -> None:
        """Look at the bytes without running them."""

    def load(self, slot: int, model: bytes, spec: Model) -> int:
        """Make the slot ready to invoke and return the arena bytes used."""

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[Sequence[bytes], int]:
        """Run once: raw outputs in the order of the manifest, and microseconds of the invoke alone."""

    def reset(self, slot: int) -> None:
        """Clear streaming state (variables)."""

    def unload(self, slot: int) -> None:
        """Forget the slot's model; also called when none is loaded."""


class Port(Protocol):
    """Connects the core to its surroundings."""

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        """Enqueue a publish: a token > 0 for `Core.sent` when QoS 1 is acknowledged, None = outbox full."""

    def watch(self, topic_filter: str, qos: int) -> None:
        """SUBSCRIBE, also when subscribed already: retained messages must come again."""

    def unwatch(self, topic_filter: str) -> None:
        """UNSUBSCRIBE."""

    def reconnect(self) -> None:
        """Drop the connection and make a new one soon (probation wants proof over a new connection)."""

    def may_switch(self) -> str | None:
        """None = yes; else `low_power`, `low_heap` or `busy`."""

    def reboot(self) -> None:
        """The core asks for a restart (reset reason EXPECTED)."""

    def identify(self) -> None:
        """Blink, or what a virtual device does instead."""

    def log(self, level: int, event: int, a: int, b: int) -> None:
        """One line of the device's log; event numbers stand in fleet_core/codes.h."""


@dataclass(frozen=True, slots=True)
class SlotState:
    """One slot as the core sees it; `loaded` is 0 nothing, 1 the confirmed model, 2 the candidate."""

    phase: Phase
    state: State
    run_bank: int
    flags: int
    attempts: int
    cuts: int
    fail_code: int
    fail_detail: int
    panics: int
    run_id: bytes
    other_id: bytes
    failed_id: bytes
    failed_attempt: int
    code: int
    detail: int
    have: int
    total: int
    attempt: int
    loaded: int
    arena_used: int
    golden_n: int
    golden_ok: int
    golden_max_diff: int
    golden_median_us: int


@dataclass(frozen=True, slots=True)
class Config:
    """Effective values of desired key 5."""

    heartbeat_s: int
    window_s: int
    period_ms: int
    threshold: int
    alarm_k: int
    alarm_n: int
    sample_n: int
    chunk_cap: int
    probation_n: int
    probation_s: int
    invalid: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoreState:
    """The core's own state, for tests and logs."""

    trust_version: int
    desired_counter: int
    cmd_counter: int
    time_floor: int
    record_number: int
    panics: int
    safe_mode: bool
    stale: bool
    link: bool
    refusal: tuple[int, int]
    dropped_messages: int
    dropped_chunks: int
    telemetry_counter: int
    ring_batches: int
    ring_bytes: int
    flash_ops: int
    config: Config


def encode_operators(operators: Sequence[int | tuple[int, str]]) -> bytes:
    """CBOR array of manifest key 12 and reported key 16. Raises ValueError when it is not sorted."""
    builtin = [op for op in operators if isinstance(op, int)]
    custom = [op for op in operators if not isinstance(op, int)]
    if (
        [*builtin, *custom] != list(operators)
        or builtin != sorted(set(builtin))
        or custom != sorted(set(custom))
    ):
        raise ValueError("operators: builtin codes rising, then custom ones by name")
    out = [_cbor_head(4, len(operators))]
    out += [_cbor_head(0, op) for op in builtin]
    for code, name in custom:
        raw = name.encode()
        out += [_cbor_head(4, 2), _cbor_head(0, code), _cbor_head(3, len(raw)), raw]
    return b"".join(out)


def _cbor_head(major: int, value: int) -> bytes:
    """Shortest CBOR head."""
    if value < 24:
        return bytes([major << 5 | value])
    for info, fmt, limit in ((24, ">BB", 1 << 8), (25, ">BH", 1 << 16), (26, ">BI", 1 << 32)):
        if value < limit:
            return struct.pack(fmt, major << 5 | info, value)
    return struct.pack(">BQ", major << 5 | 27, value)
