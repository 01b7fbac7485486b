"""How a virtual device suffers its faults: between core, radio, sensor and engine.

`acted` counts what each fault did, so that a scenario can tell a fault that bit from one that found nothing.
"""

import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from device_firmware.host.core import Area, Core, Model, State, exit_cut
from device_firmware.host.faults import Fault, Lasting
from device_firmware.host.link import Link

POWER_S = 3.0  # an armed loss of power that met no flash operation comes after so long
HEAP_FREE = 200 * 1024
_SECTOR = 4096
Window = np.ndarray[Any, Any]


class Suffering:
    """The faults of one device. `take` accepts one; the other methods ask whether one applies."""

    def __init__(self, core: Core, link: Link, *, seed: int) -> None:
        self.acted: Counter[str] = Counter()
        self._core = core
        self._link = link
        self._luck = random.Random(seed)  # noqa: S311 - which chunk is lost, not a secret
        self._lasting = Lasting()
        self._once: list[Fault] = []
        self._power_at = math.inf
        self._told: dict[str, Fault | None] = {}
        self._flash_ops = 0
        self._run_id = b""
        self._turned_at = 0.0

    def take(self, fault: Fault, now: float) -> None:
        """Begin to suffer. A crash, a hang and a loss of power at once do not return."""
        match fault.kind:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(3600)
            case "power":
                self._lose_power(fault, now)
            case "rot":
                self._rot(fault)
            case "cut" | "flip":
                self._once.append(fault)
            case _:
                self._lasting.begin(fault, now)

    def turn(self, now: float) -> Fault | None:
        """Begin and end what time begins and ends. Returns a cut that was armed now."""
        if now >= self._power_at:
            os._exit(exit_cut())
        self._tell_core(now)
        wifi = self._lasting.get("wifi", now)
        is_on = wifi is None or self._is_up(wifi, now)
        if self._link.radio(is_on) and not is_on:
            self.acted["wifi"] += 1
        self._panic(now)
        if self._lasting.get("model", now):
            self._run_id = self._core.slot(0).run_id
        return self._arm_cut()

    def may_switch(self) -> str | None:
        """Why the board must not change its model now."""
        if self._lasting.get("battery"):
            self.acted["battery"] += 1
            return "low_power"
        return None

    def chunk(self, topic: str, payload: bytes) -> bytes | None:
        """A received message as the core gets it: None when it is lost, other bytes when it is damaged."""
        if not topic.startswith("f1/model/") or not topic[-1].isdigit() or not payload:
            return payload
        for fault in self._once:
            if fault.kind == "flip" and topic.endswith(f"/{fault.whole('chunk')}"):
                self._once.remove(fault)
                self.acted["flip"] += 1
                return bytes([payload[0] ^ 1]) + payload[1:]
        lose, corrupt = self._lasting.get("lose"), self._lasting.get("corrupt")
        if lose and self._luck.random() < lose["ratio"]:
            self.acted["lose"] += 1
            return None
        if corrupt and self._luck.random() < corrupt["ratio"]:
            self.acted["corrupt"] += 1
            at = self._luck.randrange(len(payload))
            flipped = payload[at] ^ 1 << self._luck.randrange(8)
            return payload[:at] + bytes([flipped]) + payload[at + 1 :]
        return payload

    def sensed(self, window: Window) -> Window:
        """A window, float32 (samples, axes), as the board's sensor gives it."""
        effect = self._effect()
        if effect is not None and effect["offset"]:
            self.acted["effect"] += 1
            window = window + np.float32(effect["offset"])
        fault = self._lasting.get("sensor")
        if fault is None:
            return window
        self.acted["sensor"] += 1
        axis = fault.whole("axis")
        if axis < 0:
            return window * np.float32(fault["gain"]) + np.float32(fault["offset"])
        stuck = window.copy()
        stuck[..., min(axis, window.shape[-1] - 1)] = np.float32(fault["offset"])
        return stuck

    def labelled(self, label: int, classes: int) -> int:
        """The label of a window as its model is scored by: another of `classes` for some, so that an answer
        that was right is wrong. Without a label (-1) or another class it stays.
        """
        effect = self._effect()
        if effect is None or label < 0 or classes < 2 or self._luck.random() >= effect["wrong"]:
            return label
        self.acted["effect"] += 1
        return (label + self._luck.randrange(1, classes)) % classes

    def slower_us(self) -> int:
        """How many microseconds longer the next inference takes."""
        effect = self._effect()
        if effect is None or not effect["slow_us"]:
            return 0
        self.acted["effect"] += 1
        return effect.whole("slow_us")

    def _effect(self) -> Fault | None:
        """What a newer model than the named one brings with it, while such a model runs."""
        fault = self._lasting.get("effect")
        running = self._core.running(0) if fault is not None else None
        return fault if fault is not None and running and running.seq > fault["above_seq"] else None

    def _panic(self, now: float) -> None:
        effect, passed_s = self._effect(), now - (self._turned_at or now)
        self._turned_at = now
        if effect is not None and self._luck.random() < effect["panics_per_hour"] * passed_s / 3600:
            os.kill(os.getpid(), signal.SIGSEGV)

    def loading(self, model: Model) -> None:
        """A model is about to be loaded. Does not return when it is the candidate that a fault hits."""
        fault = self._lasting.get("model")
        if fault is None or model.id[:16] == self._run_id:
            return
        if fault.whole("hangs"):
            time.sleep(3600)
        os.kill(os.getpid(), signal.SIGSEGV)

    def _is_up(self, wifi: Fault, now: float) -> bool:
        return (now - self._lasting.since("wifi")) % (wifi["up_s"] + wifi["down_s"]) < wifi["up_s"]

    def _tell_core(self, now: float) -> None:
        """What the C side does by itself while a fault lasts."""
        slow, clock, heap = (self._lasting.get(kind, now) for kind in ("slow_flash", "clock", "heap"))
        if slow is not None:
            ops = self._core.state().flash_ops
            self.acted["slow_flash"] += ops - (self._flash_ops or ops)
            self._flash_ops = ops
        if self._is_news("slow_flash", slow):
            self._core.flash_slow(slow["ms"] if slow else 0.0)
        if self._is_news("heap", heap):
            self.acted["heap"] += heap is not None
            self._core.health(heap_free=heap.whole("free_bytes") if heap else HEAP_FREE, rssi=0)
        if self._is_news("clock", clock):
            if clock is None:
                self._core.clock_truth()
                return
            self.acted["clock"] += 1
            self._core.clock_lie(
                offset_s=clock.whole("offset_s"),
                drift_ppm=clock["drift_ppm"],
                is_absent=bool(clock["absent"]),
            )

    def _is_news(self, kind: str, fault: Fault | None) -> bool:
        """True once when a fault begins, ends or gives way to another of its kind."""
        if self._told.get(kind) is fault:
            return False
        self._told[kind] = fault
        return True

    def _arm_cut(self) -> Fault | None:
        for fault in self._once:
            if fault.kind == "cut" and self._core.slot(0).state == State.DOWNLOADING:
                self._core.cut_after(fault.whole("ops"), fault.whole("mode"))
                self._once.remove(fault)
                return fault
        return None

    def _lose_power(self, fault: Fault, now: float) -> None:
        ops = fault.whole("ops")
        if not ops:
            os._exit(exit_cut())
        self._core.cut_after(ops, fault.whole("mode"))
        self._power_at = now + POWER_S

    def _rot(self, fault: Fault) -> None:
        luck = random.Random(fault.whole("seed") or None)  # noqa: S311 - which bit rots
        slot, model = self._core.slot(0), self._core.running(0)
        where = fault.whole("area")
        run = slot.run_bank if slot.run_bank in (0, 1) else 1
        area = Area.META if where == 0 else int(Area.BANK0) + (run if where == 1 else 1 - run)
        size = self._core.capacity(area)
        if where == 1 and model is not None:
            size = min(size, (2 + -(-model.size // _SECTOR)) * _SECTOR)  # manifest, leaves, model
        for _ in range(fault.whole("bits") if size else 0):
            self._core.flip(area, luck.randrange(size), luck.randrange(8))
            self.acted["rot"] += 1


class Burdened:
    """An engine whose inferences take longer: as long as `burden` says, µs, slept and counted."""

    def __init__(self, engine: Any, burden: Callable[[], int]) -> None:
        self._engine = engine
        self._burden = burden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def invoke(self, slot: int, inputs: Sequence[bytes]) -> tuple[list[bytes], int]:
        """As the engine's, later. Raises what it raises."""
        outputs, us = self._engine.invoke(slot, inputs)
        more_us = self._burden()
        if more_us:
            time.sleep(more_us / 1e6)
        return outputs, us + more_us
