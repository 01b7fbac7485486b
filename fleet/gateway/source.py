"""Where uplinks come from, as a pump sees it, and how much of it may be un-acknowledged at a time.

Two sessions with a broker fit: `paho_source` (paho's network thread and a queue) and `lean_source` (our own
reader, in the pump's thread).
"""

from collections.abc import Sequence
from typing import Final, Protocol

from fleet.mqtt.client import Arrived

READERS: Final = ("lean", "paho")
"""Names of the sources for telemetry; the first is the default."""
COMMIT_RECORDS: Final = 20_000
"""A device's last values and its day are written once a transaction, so a larger one costs less a record:
with ten records a message 14.5 µs in PostgreSQL, 18.5 at 5,000 (`tests.bench.telemetry.read_path`)."""
COMMIT_S: Final = 0.1
QUIET_S: Final = 0.01
"""A batch also ends when nothing has come for this long: the broker may have no more for us until we
acknowledge (200 messages at a time over MQTT 3.1.1), and waiting out COMMIT_S capped a gateway at 2,000
messages/s."""
MOST_RECORDS: Final = 40_000
MOST_BYTES: Final = 8 * 2**20
KEEPALIVE_S: Final = 60

_AROUND_BYTES: Final = 150  # envelope, MAC and head of a batch, about
_RECORD_BYTES: Final = 14  # a window has at least 14, and about 24 in practice
_RECORDS: Final = 64


class Source(Protocol):
    """Uplinks of some filters, in batches, each un-acknowledged until its transaction has committed.

    name: for logs and metrics. One pump at a time.
    """

    name: str

    def start(self) -> None:
        """Connect, now and whenever the connection is lost; a broker that is away is waited for."""

    @property
    def is_ready(self) -> bool:
        """True while the broker has us and has granted our subscriptions."""

    def receive(self, max_records: int, wait_s: float) -> list[Arrived]:
        """The next batch: about `max_records` records, or what comes within COMMIT_S of the first and QUIET_S
        of one another; empty after `wait_s` seconds without one.
        """

    def ack(self, done: Sequence[Arrived]) -> None:
        """Acknowledge messages, in the order they came and only after their COMMIT.

        Those of an earlier connection are left alone: the broker sends them again, and they count once.
        """

    def pause(self) -> None:
        """Nothing can be stored now: read no more. Call it again and again while that lasts.

        A socket that is not read is not pinged either, so at half its keep-alive the connection is ended on
        purpose, and the broker keeps what comes. What was handed out stays with the pump.
        """

    def resume(self) -> None:
        """Read again, on a new connection if need be. Harmless when nothing was paused."""

    def close(self) -> None:
        """Disconnect. What was not acknowledged comes again to the next holder of this session."""


def weight(payload: bytes) -> int:
    """How many records a message may hold, by its size; at least 1.

    Exact needs the payload decoded, and what bounds memory must not wait for that. Batches of windows, which
    nearly all are, hold at most so many, and about half of it.
    """
    return min(_RECORDS, 1 + max(0, len(payload) - _AROUND_BYTES) // _RECORD_BYTES)
