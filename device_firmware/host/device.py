"""One virtual device: the C core, the TFLM wheel and MQTT in one process, one thread.

The process is the board: when TFLM or the core crashes, it dies with it; a simulated power cut ends it in the
middle of a flash operation. The supervisor restarts it with the reset reason. What it senses are real
recordings
with labels.
"""

import json
import os
import random
import signal
import socket
import time

from device_firmware.host.core import Core, Ident, Reset, State
from device_firmware.host.devicelog import LogEvent, describe, say
from device_firmware.host.engine import WheelEngine
from device_firmware.host.faults import Fault
from device_firmware.host.home import Home
from device_firmware.host.identity import Identity
from device_firmware.host.link import Link
from device_firmware.host.sensor import Sensor, Windows

EXIT_REBOOT = 80  # the core asked for a restart: reset reason EXPECTED
EXIT_STOP = 0
BEAT_S = 1.0
_PACKET_MAX = 4096
_IDLE_S = 1.0


class Device:
    """The port of one core, and the loop that drives it."""

    def __init__(self, home: Home, windows: Windows, *, control: socket.socket, seed: int) -> None:
        """control: to the supervisor, a packet socket; heartbeats up, faults down. seed: spreads reconnects
        and inference phases.
        """
        self.home = home
        self.identity = Identity.load(home.identity_file)
        self._control = control
        self._jitter = random.Random(seed)  # noqa: S311 - jitter, not a secret
        self._engine = WheelEngine(operators=self.identity.operators, arena_bytes=self.identity.arena_bytes)
        self._sensor = Sensor(windows, self._engine)
        self._armed: list[Fault] = []
        self._exit: int | None = None
        self._is_dropping = False
        self._period_s = 1.0
        self._is_stale = True
        self._failed_id = b""
        self._link = Link(self.identity, self, jitter=self._jitter)
        self.core = Core(home.flash_file, self._ident(home.next_boot()), engine=self._engine, port=self)

    def _ident(self, boot: int) -> Ident:
        me = self.identity
        return Ident(
            device_id=me.device_id,
            installation_id=me.installation_id,
            class_id=me.class_id,
            roots=me.roots,
            root_threshold=me.root_threshold,
            mac_key=me.mac_key,
            boot=boot,
            firmware_version=me.firmware,
            esp_nn=me.esp_nn,
            least_trust_version=me.least_trust_version,
            operators=me.operators,
            arena_bytes=me.arena_bytes,
            slot_capacity=me.slot_bytes,
        )

    # The port's side of the core: called from inside the core, which must not be entered again

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        """Enqueue a publish."""
        return self._link.send(topic, payload, qos, retain)

    def watch(self, topic_filter: str, qos: int) -> None:
        """Subscribe."""
        self._link.watch(topic_filter, qos)

    def unwatch(self, topic_filter: str) -> None:
        """Unsubscribe."""
        self._link.unwatch(topic_filter)

    def reconnect(self) -> None:
        """Drop the connection and make a new one at the next turn of the loop."""
        self._is_dropping = True

    def may_switch(self) -> str | None:
        """A virtual device has power and heap."""
        return None

    def reboot(self) -> None:
        """End at the next turn of the loop; the supervisor starts the device again."""
        self._exit = EXIT_REBOOT

    def identify(self) -> None:
        """What a board does by blinking."""
        self.say("identify", text="here I am")

    def log(self, level: int, event: int, a: int, b: int) -> None:
        """One line of the device's log; a new desired document may carry another configuration."""
        self._is_stale = self._is_stale or event == LogEvent.DESIRED
        line = describe(level, event, a, b)
        if line is not None:
            self.say(line[0], **line[1])

    def say(self, what: str, **values: object) -> None:
        """Log one JSON line with the device's id."""
        say(what, device=self.identity.device_id, **values)

    # The link's side

    def link_up(self, fresh: bool) -> None:
        """Connected."""
        self.say("link_up", fresh=fresh)
        self.core.link(True, fresh)

    def link_down(self, why: str) -> None:
        """Lost, or not to be had."""
        self.say("link_down", why=why)
        self.core.link(False)

    def link_sent(self, token: int) -> None:
        """Acknowledged."""
        self.core.sent(token)

    def link_message(self, topic: str, payload: bytes) -> None:
        """Hand a message to the core, with a flipped bit when that fault is armed for it."""
        for fault in self._armed:
            if fault.kind == "flip" and payload and _is_chunk(topic, fault.chunk):
                payload = bytes([payload[0] ^ 1]) + payload[1:]
                self._armed.remove(fault)
                self.say("bit_flipped", topic=topic)
                break
        self.core.message(topic, payload)

    # Loop

    def run(self, reason: Reset) -> int:
        """Live until told to stop. Returns the process's exit status."""
        self.core.boot(reason)
        next_sample = time.monotonic() + self._jitter.random() * 2
        next_beat = 0.0
        while self._exit is None:
            again_s = self.core.step() / 1000
            self._arm_cut()
            now = time.monotonic()
            if now >= next_beat:
                self._beat()
                next_beat = now + BEAT_S
            if now >= next_sample:
                self._infer()
                next_sample = max(next_sample + self._period_s, now)
            if self._is_dropping:
                self._is_dropping = False
                self._link.drop()
            wait_s = max(0.0, min(again_s, next_sample - now, next_beat - now, _IDLE_S))
            if self._link.turn(wait_s, self._control):
                self._listen()
        self._link.drop()
        self.core.close()
        return self._exit

    def _beat(self) -> None:
        slot, running = self.core.slot(0), self.core.running(0)
        beat = {
            "state": slot.state.name.lower(),
            "have": slot.have,
            "total": slot.total,
            "model": f"{running.name} {running.version}" if running else "",
            "dropped_chunks": self.core.state().dropped_chunks,
        }
        try:
            self._control.send(json.dumps(beat).encode(), socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass  # the supervisor is busy; the next one will do
        except OSError:
            self._exit = EXIT_STOP  # the supervisor is gone

    def _listen(self) -> None:
        try:
            packet = self._control.recv(_PACKET_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._exit = EXIT_STOP
            return
        raw = json.loads(packet)
        if raw.get("kind") == "stop":
            self._exit = EXIT_STOP
            return
        fault = Fault.parse(raw)
        self.say("fault", **raw)
        if fault.kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault.kind == "hang":
            time.sleep(3600)
        else:
            self._armed.append(fault)

    def _arm_cut(self) -> None:
        for fault in self._armed:
            if fault.kind == "cut" and self.core.slot(0).state == State.DOWNLOADING:
                self.say("cut_armed", ops=fault.ops, mode=fault.mode, have=self.core.slot(0).have)
                self.core.cut_after(fault.ops, fault.mode)
                self._armed.remove(fault)
                return

    def _infer(self) -> None:
        if self._is_stale:
            self._period_s = self.core.state().config.period_ms / 1000
            self._is_stale = False
        model = self.core.running(0)
        if model is None:
            return
        try:
            self._sensor.infer(self.core, model)
        except Exception as error:
            if model.id != self._failed_id:
                self._failed_id = model.id
                self.say("invoke_failed", model=model.mid, text=repr(error))


def _is_chunk(topic: str, index: int) -> bool:
    return topic.startswith("f1/model/") and topic.endswith(f"/{index}")
