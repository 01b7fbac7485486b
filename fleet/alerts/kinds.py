"""What a rule can watch for: statistic, unit, default, least evidence and advice of each kind, in one table.

Thresholds are the rule's; K of N, spans and least evidence are the kind's. A kind `is_fleet` looks at whole
parts of the fleet, (device class, model run); any other looks at single devices, and opens one alert more for
a part of the fleet when the share of its devices that fire is above CLEAN_RATE for certain: that alert folds
its devices' own, so that one bad version is one message.

A kind `is_system` is about the installation itself: its rules name no devices, fold nothing and pause no
rollout (`fleet.alerts.system`).

The two halves of the design's rule about dead letters are two kinds: `dead_letters` counts those of a device,
which has no more than that to say, and `refused_share` is about all messages that gateways took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from fleet.alerts.choices import Severity

CLEAN_RATE: Final = 0.05
"""Share of devices that may fire before a part of the fleet does; compared with the Wilson lower bound."""
FLEET_CONFIDENCE: Final = 0.99
LEAST_FLEET_DEVICES: Final = 3
WINDOWS: Final = 5
WINDOWS_FIRING: Final = 3
LEAST_DEVICES: Final = 5
LEAST_LABELS: Final = 100
LEAST_INFERENCES: Final = 1_000
LEAST_REFUSED: Final = 10
"""Refused messages that their share is judged by at least: one device's mistake is its own alert."""
REFERENCE: Final = timedelta(days=7)
"""How far back accuracy and latency look for what is usual of a class and model."""


@dataclass(frozen=True)
class Kind:
    """A statistic and how it reads.

    default, least, most: of the threshold, in `unit`. span: how far back it looks. is_fleet: judges parts of
    the fleet instead of devices. folds: its devices' alerts fold into one of their part of the fleet, when
    more than clean_rate of them fire for certain. is_blame: whether one device's alert may pause a rollout,
    or only that of a part of the fleet. is_system: about the installation, not about devices.
    """

    name: str
    label: str
    text: str
    unit: str
    default: float
    least: float
    most: float
    severity: Severity
    span: timedelta
    advice: str
    is_fleet: bool = False
    folds: bool = True
    clean_rate: float = CLEAN_RATE
    is_blame: bool = True
    is_system: bool = False


_HOUR: Final = timedelta(hours=1)

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "golden_mismatch", "Golden vectors disagree",
            "mismatches of golden vectors that a device told of within 1 h, at least",
            "events", 1, 1, 100, Severity.CRITICAL, _HOUR,
            "Pause the rollout of this version. Compare its kernels and flash with the manifest: run "
            "the golden vectors again by a command, then roll back if they still disagree.",
        ),
        Kind(
            "mac_bad", "Messages with a wrong MAC",
            "messages under a device's name whose MAC is wrong, within 1 h, at least",
            "messages", 1, 1, 100, Severity.CRITICAL, _HOUR,
            "Somebody else may write as this device, or it lost its key. Quarantine it, renew its credential "
            "and enrol it again.",
            folds=False,
        ),
        Kind(
            "dead_letters", "Refused messages",
            "messages of a device that were refused within 1 h for anything but their MAC, more than",
            "messages", 10, 1, 1_000, Severity.WARNING, _HOUR,
            "Read the codes on the device's page: a format or range code after a firmware release is that "
            "firmware's mistake.",
            folds=False,
        ),
        Kind(
            "crash_loop", "Crash loop",
            "boots after an abnormal reset within 1 h, at least",
            "resets", 3, 2, 100, Severity.CRITICAL, _HOUR,
            "Read the reset reasons on the device's page. If they began with a version, stop its rollout and "
            "roll it back.",
        ),
        Kind(
            "anomaly_rate", "Anomalies above the usual",
            "share of anomalous inferences whose lower bound (Wilson, 99 %) is above this in 3 of the last 5 "
            "windows",
            "ratio", 0.1, 0.001, 0.9, Severity.WARNING, timedelta(hours=2),
            "Look at the anomaly grid: one device points at its sensor, a whole version at the model or its "
            "threshold.",
        ),
        # One board that drifts has a broken sensor, whatever model it runs; that accuses no rollout. Clean
        # devices alarm in less than 2 % of their weeks (tests/bench/drift.py).
        Kind(
            "drift", "Input or answers drifted",
            "3 of the last 5 sketches whose input moments, class mix or anomaly scores are this many times "
            "their limit (each at a third of alpha 0.001), or more",
            "times", 1, 0.5, 20, Severity.WARNING, timedelta(days=1),
            "The drift page names statistic, channel and devices. One device: its sensor. "
            "One version: its input or its training data. Several versions at once: the environment, which a "
            "rollback does not cure. Confidence may rise meanwhile; it is no proof that answers are right.",
            clean_rate=0.02,
            is_blame=False,
        ),
        Kind(
            "accuracy_drop", "Accuracy dropped",
            "proxy accuracy whose 95 % interval over device means lies below the week before by more than "
            "this; at least 5 devices and 100 labels",
            "ratio", 0.05, 0.01, 0.5, Severity.WARNING, _HOUR,
            "Compare the versions in the telemetry explorer. If one version is worse than the other on the "
            "same class, roll it back.",
            is_fleet=True,
        ),
        Kind(
            "latency_budget", "Inference is slow",
            "p95 over windows of the mean inference time, as a multiple of that of the week before; at least "
            "1,000 inferences",
            "times", 1.5, 1.05, 20, Severity.WARNING, timedelta(minutes=15),
            "Compare the operators of the two versions: a kernel without its fast path shows in preflight's "
            "report.",
            is_fleet=True,
        ),
        Kind(
            "low_heap", "Little free memory",
            "lowest free heap in bytes that is below this in 3 of the last 5 windows",
            "bytes", 16_384, 1_024, 1_048_576, Severity.WARNING, timedelta(hours=2),
            "The arena of this version leaves too little memory. Compare arena use in preflight with the "
            "class's memory.",
        ),
        Kind(
            "telemetry_gap", "Telemetry is missing",
            "seconds since records were found missing that neither came nor are known to be lost, more than",
            "s", 3_600, 300, 604_800, Severity.WARNING, _HOUR,
            "The device was not there to be asked, or the commands do not reach it: is it online? Many at "
            "once: the broker lost what it had acknowledged, or its queue for the gateway is too short.",
        ),
        Kind(
            "ingest_lag", "Telemetry is stored late",
            "seconds that the oldest message a gateway holds is not acknowledged, or that the gateway says "
            "nothing, more than",
            "s", 60, 20, 86_400, Severity.WARNING, _HOUR,
            "Nothing is lost yet: the broker keeps what is not acknowledged until its queue is full. Is "
            "PostgreSQL up, is its disk full, does something hold a lock? Ask manage.py doctor and the "
            "gateway's log. If the gateway is gone for good, empty its slot: manage.py gateway --drain N.",
            folds=False,
            is_blame=False,
            is_system=True,
        ),
        Kind(
            "refused_share", "Messages are refused",
            "share of telemetry and event messages that were refused within 1 h whose lower bound (Wilson, "
            "99 %) is above this; at least 10 of them",
            "ratio", 0.001, 0.000_1, 0.5, Severity.WARNING, _HOUR,
            "The alert names the codes. One code since a firmware release: that firmware. mac_bad or "
            "key_unknown of many devices: keys and database do not belong together. rate_limited: a device "
            "floods. GET /telemetry/dead-letters lists them; manage.py telemetry replay takes them again.",
            folds=False,
            is_blame=False,
            is_system=True,
        ),
        Kind(
            "cold_export_failed", "The cold tier did not take a day",
            "raw partitions past retention that could not become Parquet and are kept, at least",
            "partitions", 1, 1, 100, Severity.WARNING, timedelta(days=1),
            "Nothing is lost: the partition stays in the database and is tried again each hour. Is "
            "FLEET_COLD_DIR there, writable and not full, and the extra `cold` installed?",
            folds=False,
            is_blame=False,
            is_system=True,
        ),
        Kind(
            "delivery_failed", "Messages do not arrive",
            "messages to one webhook or e-mail address that were given up within 24 h, at least",
            "messages", 1, 1, 10_000, Severity.WARNING, timedelta(days=1),
            "Each was tried for a day. Is the receiver up, does it answer 2xx within 5 s, is its address a "
            "public one? Once it is, send what failed again from its page.",
            folds=False,
            is_blame=False,
            is_system=True,
        ),
        Kind(
            "silent", "Silent",
            "seconds without a message, and longer than three of the device's own intervals",
            "s", 900, 60, 604_800, Severity.INFO, timedelta(days=7),
            "One device: power or network. A class at once: the broker, its certificate, or what was rolled "
            "out last.",
        ),
    )
}  # fmt: skip
