"""What stands for hardware and network around the shipped core: an engine that answers from a script, and a
port that keeps what was sent and delivers what is retained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from device_firmware.host.core import EngineError, Model


@dataclass
class ScriptedEngine:
    """Stands for the runtime: output = the first three input bytes plus `offset`, unless told to fail."""

    arena_used: int = 12_000
    us: int = 700
    offset: int = 0
    load_error: str | None = None
    invoke_error: str | None = None
    check_error: str | None = None
    raises: bool = False
    on_load: Callable[[], None] | None = None
    loaded: dict[int, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def check(self, model: bytes) -> None:
        self.calls.append("check")
        if self.check_error:
            raise EngineError(self.check_error)

    def load(self, slot: int, model: bytes, spec: Model) -> int:
        self.calls.append("load")
        if self.on_load:
            self.on_load()
        if self.raises:
            raise RuntimeError("a fault of the engine")
        if self.load_error:
            raise EngineError(self.load_error)
        assert len(model) == spec.size
        self.loaded[slot] = model
        return self.arena_used

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        self.calls.append("invoke")
        assert slot in self.loaded, "invoked without a model"
        if self.invoke_error:
            raise EngineError(self.invoke_error)
        return [bytes((value + self.offset) % 256 for value in inputs[0][:3])], self.us

    def reset(self, slot: int) -> None:
        self.calls.append("reset")

    def unload(self, slot: int) -> None:
        self.loaded.pop(slot, None)


@dataclass
class Port:
    """Stands for network and board: keeps what was sent, knows what is retained and subscribed."""

    sent: list[tuple[str, bytes, int, bool, int]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    subscriptions: set[str] = field(default_factory=set)
    inbox: deque[tuple[str, bytes]] = field(default_factory=deque)
    log_lines: list[tuple[int, int, int, int]] = field(default_factory=list)
    watches: list[str] = field(default_factory=list)
    full: bool = False
    refuse_switch: str | None = None
    reconnects: int = 0
    reboots: int = 0
    identified: int = 0
    next_token: int = 0
    alter: Callable[[str, bytes], bytes | None] = lambda topic, payload: payload

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        if self.full:
            return None
        self.next_token += 1
        self.sent.append((topic, payload, qos, retain, self.next_token))
        return self.next_token

    def watch(self, topic_filter: str, qos: int) -> None:
        self.subscriptions.add(topic_filter)
        self.watches.append(topic_filter)
        for topic, payload in self.retained.items():
            if _matches(topic_filter, topic):
                altered = self.alter(topic, payload)
                if altered is not None:
                    self.inbox.append((topic, altered))

    def unwatch(self, topic_filter: str) -> None:
        self.subscriptions.discard(topic_filter)

    def reconnect(self) -> None:
        self.reconnects += 1

    def may_switch(self) -> str | None:
        return self.refuse_switch

    def reboot(self) -> None:
        self.reboots += 1

    def identify(self) -> None:
        self.identified += 1

    def log(self, level: int, event: int, a: int, b: int) -> None:
        self.log_lines.append((level, event, a, b))


def _matches(topic_filter: str, topic: str) -> bool:
    wanted, have = topic_filter.split("/"), topic.split("/")
    return len(wanted) == len(have) and all(w in ("+", h) for w, h in zip(wanted, have, strict=True))
