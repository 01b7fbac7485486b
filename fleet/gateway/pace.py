"""How fast one device may send, so that a device gone mad costs the fleet nothing but its own messages.

A bucket of `burst` messages a device, filled with `per_s` a second. The burst is what a device had queued at
the broker while no gateway ran: 200 messages are more than three hours of one a minute.
"""

from typing import Final

PER_S: Final = 20.0
BURST: Final = 200
MAX_TRACKED: Final = 100_000
FIRST: Final = "first"
MORE: Final = "more"


class Pace:
    """Judges messages of one source as they arrive. One thread at a time."""

    def __init__(self, *, per_s: float = PER_S, burst: int = BURST) -> None:
        """per_s: messages a second and device in the long run. burst: at once, at least 1."""
        if per_s <= 0 or burst < 1:
            raise ValueError("a pace lets at least one message through")
        self._per_s, self._burst = per_s, float(burst)
        self._buckets: dict[str, tuple[float, float, bool]] = {}

    def judge(self, topic: str, *, now_s: float) -> str:
        """ "" for a message within its device's pace, FIRST for the first one beyond it since, else MORE.

        topic: of an uplink; a malformed one is a device of its own. now_s: monotonic. At most MAX_TRACKED
        devices are known; beyond that all begin with a full bucket again.
        """
        parts = topic.split("/", 3)
        device = parts[2] if len(parts) == 4 else ""
        left, at_s, is_over = self._buckets.get(device, (self._burst, now_s, False))
        left = min(self._burst, left + (now_s - at_s) * self._per_s)
        is_within = left >= 1.0
        if len(self._buckets) >= MAX_TRACKED and device not in self._buckets:
            self._buckets.clear()
        self._buckets[device] = (left - 1.0 if is_within else left, now_s, not is_within)
        if is_within:
            return ""
        return MORE if is_over else FIRST
