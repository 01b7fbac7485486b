"""Dead letters: uplinks that were refused, with a code, so that nothing disappears without a trace.

Of one device at most PER_HOUR are kept an hour; beyond that only the gateway's counters go on.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import connection

from fleet.telemetry import partitions

PER_HOUR: Final = 100
PAYLOAD_BYTES: Final = 4096
MAX_TRACKED: Final = 100_000

CODES: Final = (
    "too_large", "topic_bad", "cbor_bad", "mac_missing", "mac_bad", "key_unknown", "format_unknown", "range",
    "bad_window", "time_range", "unknown_device", "retired_device", "db_reject",
    "internal", "rate_limited", "malformed_json", "too_many_versions",
)  # fmt: skip
"""Every code a dead letter can have."""


@dataclass(frozen=True)
class Refused:
    """An uplink that was refused.

    device_id: from the topic, "" when that is malformed. is_kept: False for one that is only counted.
    """

    device_id: str
    topic: str
    code: str
    detail: str
    payload: bytes
    is_kept: bool = True


class Quota:
    """Counts dead letters per device and hour in this process. Safe for threads."""

    def __init__(self, per_hour: int = PER_HOUR) -> None:
        self._per_hour = per_hour
        self._lock = threading.Lock()
        self._hour = ""
        self._kept: Counter[str] = Counter()

    def admits(self, device_id: str, now: datetime) -> bool:
        """True for the first PER_HOUR letters of a device in this hour."""
        hour = f"{now:%Y%m%d%H}"
        with self._lock:
            if hour != self._hour or len(self._kept) > MAX_TRACKED:
                self._hour, self._kept = hour, Counter()
            self._kept[device_id] += 1
            return self._kept[device_id] <= self._per_hour


QUOTA: Final = Quota()


def record(letters: Sequence[Refused], *, slot: int, now: datetime, quota: Quota = QUOTA) -> int:
    """Keep these letters, in the caller's transaction; returns how many were within their device's quota.

    slot: the gateway's. Texts lose what PostgreSQL cannot hold, payloads what is beyond 4096 bytes.
    """
    kept = [letter for letter in letters if letter.is_kept and quota.admits(letter.device_id, now)]
    if not kept:
        return 0
    partitions.ensure([partitions.day_of(now)], tables=["tele_dead"])
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tele_dead (at, ingest_slot, device_id, topic, code, detail, payload)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    now,
                    slot,
                    letter.device_id[:32],
                    letter.topic.replace("\0", "")[:128],
                    letter.code[:32],
                    letter.detail.replace("\0", "")[:256],
                    letter.payload[:PAYLOAD_BYTES],
                )
                for letter in kept
            ],
        )
    return len(kept)


def codes(start: datetime, end: datetime, *, most: int) -> list[tuple[str, int]]:
    """(code, letters that are kept) of telemetry and events in [start, end), the most frequent first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT code, count(*) FROM tele_dead WHERE at >= %s AND at < %s"
            " AND topic LIKE ANY(%s) GROUP BY code ORDER BY count(*) DESC, code LIMIT %s",
            [start, end, ["%/telemetry", "%/event"], most],
        )
        return [(code, int(n)) for code, n in cursor.fetchall()]
