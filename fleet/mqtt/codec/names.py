"""Every number that has a name on the wire (SPEC.md sections 5, 6 and 7).

The C core lists the same names in `codes.h`; `tests/vectors/codes.json` is generated from here and both sides
are compared with it.
"""

from __future__ import annotations

import enum
import re
from typing import Final, Self

DEVICE_ID_RE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
MODEL_NAME_RE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}", re.ASCII)
DISPLAY_VERSION_RE: Final = re.compile(r"[!-~]{1,24}", re.ASCII)


def is_device_id(text: str) -> bool:
    """True for a well-formed device id (1..32 bytes)."""
    return DEVICE_ID_RE.fullmatch(text) is not None


def is_model_name(text: str) -> bool:
    """True for a well-formed model name (1..32 bytes)."""
    return MODEL_NAME_RE.fullmatch(text) is not None


def is_display_version(text: str) -> bool:
    """True for 1..24 printable ASCII characters without space."""
    return DISPLAY_VERSION_RE.fullmatch(text) is not None


class WireEnum(enum.IntEnum):
    """A number of the protocol with a stable lower-case name."""

    @property
    def label(self) -> str:
        """The name as REST, console, logs and vectors spell it."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> Self:
        """The member called `label`. Raises KeyError when there is none."""
        return cls[label.upper()]


class RefusalCode(WireEnum):
    """Why a device refused, deferred or reverted. 0 is no refusal. C: `FC_ERR_<NAME>` = -number."""

    NONE = 0
    SIGNATURE = 1
    TRUST = 2
    EXPIRED = 3
    SEQUENCE = 4
    FLOOR = 5
    TARGET_CLASS = 6
    TOO_LARGE = 7
    ARENA_TOO_SMALL = 8
    OP_MISSING = 9
    SCHEMA = 10
    IO_CONTRACT = 11
    FIRMWARE_TOO_OLD = 12
    LEAF_LIST = 13
    DIGEST = 14
    FLASH_IO = 15
    LOAD_FAILED = 16
    SELFTEST_MISMATCH = 17
    LATENCY_BUDGET = 18
    CRASH_LOOP = 19
    WATCHDOG = 20
    NO_LINK = 21
    LOW_POWER = 22
    LOW_HEAP = 23
    MAINTENANCE_WINDOW = 24
    BUSY = 25
    UNKNOWN_ACTION = 26
    NOT_IN_BANK = 27
    CONFIG_INVALID = 28


class VerdictCode(WireEnum):
    """Why the backend's inspection refused an upload; a device never sends these."""

    NOT_TFLITE = 64
    HYBRID = 65
    PER_CHANNEL_DEQUANTIZE = 66
    VARIABLE_WITHOUT_VALUE = 67
    PROBE_CRASH = 68
    PROBE_TIMEOUT = 69
    PROBE_MEMORY = 70


class UpdateState(WireEnum):
    """Where a slot stands with its newest accepted desired entry."""

    IDLE = 0
    OFFERED = 1
    MANIFEST_OK = 2
    DOWNLOADING = 3
    DOWNLOADED = 4
    VERIFIED = 5
    TRIAL = 6
    CONFIRMED = 7
    REVERTED = 8
    REFUSED = 9
    DEFERRED = 10


class Phase(WireEnum):
    """What a device keeps about a slot across a power cut."""

    EMPTY = 0
    CONFIRMED = 1
    FETCH = 2
    TRIAL = 3
    PROBATION = 4


class ResetReason(WireEnum):
    """Why a device booted."""

    POWER = 0
    BROWNOUT = 1
    PANIC = 2
    WATCHDOG = 3
    EXPECTED = 4
    SLEEP = 5


class Chip(WireEnum):
    """The chip of a device. HOST is a virtual device: every page says `simulated`."""

    HOST = 0
    ESP32 = 1
    ESP32S2 = 2
    ESP32S3 = 3
    ESP32C3 = 4
    ESP32C6 = 5
    ESP32P4 = 6


class Action(WireEnum):
    """What a desired entry asks of a slot."""

    RUN = 0
    RUN_OTHER_BANK = 1
    STOP = 2


class CommandVerb(WireEnum):
    """One-shot commands."""

    IDENTIFY = 1
    REBOOT = 2
    SELF_TEST = 3
    RESEND_TELEMETRY = 4
    REPORT_NOW = 5
    PROBE_ARENA = 6
    CAPTURE_WINDOW = 7


class EventKind(WireEnum):
    """What an event tells."""

    ANOMALY = 1
    RESET = 2
    REFUSAL = 3
    COMMAND_RESULT = 4
    TELEMETRY_LOST = 5
    GOLDEN_MISMATCH = 6
    CLOCK_STEP = 7
    LOW_HEAP = 8
    BROWNOUT = 9


class ConfigKey(WireEnum):
    """Keys of the configuration inside a desired document; units and ranges are in `ota.desired`."""

    HEARTBEAT_S = 1
    WINDOW_S = 2
    PERIOD_MS = 3
    ANOMALY_THRESHOLD = 4
    ALARM = 5
    MAINTENANCE_WINDOW = 6
    PROBATION = 7
    SAMPLE_EVERY = 8
    CHUNK_RATE = 9
    SKETCH_S = 10


class Clock(WireEnum):
    """Where the time of a telemetry batch or an event comes from."""

    ISSUED_UPTIME = 1
    SNTP = 2


class BankFlag(enum.IntFlag):
    """Flags of a reported bank."""

    USABLE_FOR_REVERT = 1
    STOPPED = 2


class WindowFlag(enum.IntFlag):
    """Flags of a telemetry window."""

    CLOCK_STEPPED = 1
    CUT_BY_SWAP = 2
    LOST_BEFORE = 4
    SHED = 8
    LOW_POWER = 16


UPLINK_CODES = (
    "too_large",
    "topic_bad",
    "cbor_bad",
    "mac_missing",
    "mac_bad",
    "key_unknown",
    "format_unknown",
    "range",
    "bad_window",
)
"""Dead-letter codes that the codecs raise for an uplink; the gateway adds its own."""
