"""One virtual device: the C core, the TFLM wheel and MQTT in one process, one thread.

The process is the board: when TFLM or the core crashes, it dies with it; a simulated power cut ends it in the
middle of a flash operation. The supervisor restarts it with the reset reason. What it senses are real
recordings
with labels.
"""

import json
import random
import socket
import time
from pathlib import Path

from device_firmware.host.core import CODE_NAMES, Core, Ident, Reset
from device_firmware.host.devicelog import LogEvent, describe, say
from device_firmware.host.engine import WheelEngine
from device_firmware.host.faults import Fault
from device_firmware.host.home import Home
from device_firmware.host.identity import Identity
from device_firmware.host.link import Link
from device_firmware.host.pooled_engine import PooledEngine
from device_firmware.host.sensor import Sensor, Windows
from device_firmware.host.suffering import Burdened, Suffering

EXIT_REBOOT = 80  # the core asked for a restart: reset reason EXPECTED
EXIT_STOP = 0
BEAT_S = 1.0
HEAP_FLOOR = 16 * 1024  # below it the core switches no model; the process itself has memory enough
_PACKET_MAX = 4096
_IDLE_S = 1.0


class Device:
    """The port of one core, and the loop that drives it."""

    def __init__(
        self,
        home: Home,
        windows: Windows,
        *,
        control: socket.socket,
        seed: int,
        pool: tuple[Path, int] | None = None,
    ) -> None:
        """control: to the supervisor, a packet socket; heartbeats up, faults down. seed: spreads reconnects
        and inference phases. pool: folder and number of shared TFLM workers; None: TFLM in this process.
        """
        self.home = home
        self.identity = Identity.load(home.identity_file)
        self._control = control
        self._jitter = random.Random(seed)  # noqa: S311 - jitter, not a secret
        self._engine = _engine(self.identity, pool)
        self._exit: int | None = None
        self._is_dropping = False
        self._period_s = 1.0
        self._is_stale = True
        self._failed_id = b""
        self._link = Link(self.identity, self, jitter=self._jitter)
        engine = Burdened(self._engine, lambda: self._suffering.slower_us())
        self.core = Core(home.flash_file, self._ident(home.next_boot()), engine=engine, port=self)
        self._suffering = Suffering(self.core, self._link, seed=self._jitter.getrandbits(32))
        self._sensor = Sensor(
            windows, engine, distort=self._suffering.sensed, relabel=self._suffering.labelled
        )
        self._engine.before_load = self._suffering.loading
        self._seen: list[str] = []  # states since the last heartbeat

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
            heap_floor=HEAP_FLOOR,
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
        """Power and heap are there, unless a fault took them."""
        return self._suffering.may_switch()

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
        if event == LogEvent.STATE and line is not None:
            self._seen.append(f"{line[1]['state']}({line[1]['code']})")
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
        """Hand a message to the core, as faults leave it."""
        flips = self._suffering.acted["flip"]
        left = self._suffering.chunk(topic, payload)
        if self._suffering.acted["flip"] > flips:
            self.say("bit_flipped", topic=topic)
        if left is not None:
            self.core.message(topic, left)

    # Loop

    def run(self, reason: Reset) -> int:
        """Live until told to stop. Returns the process's exit status."""
        self.core.boot(reason)
        next_sample = time.monotonic() + self._jitter.random() * 2
        next_beat = 0.0
        while self._exit is None:
            again_s = self.core.step() / 1000
            now = time.monotonic()
            cut = self._suffering.turn(now)
            if cut is not None:
                self.say("cut_armed", ops=cut["ops"], mode=cut["mode"], have=self.core.slot(0).have)
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
            "code": CODE_NAMES.get(slot.code, str(slot.code)),
            "seen": self._seen[:16],
            "acted": dict(self._suffering.acted),
            "have": slot.have,
            "total": slot.total,
            "model": f"{running.name} {running.version}" if running else "",
            "dropped_chunks": self.core.state().dropped_chunks,
        }
        try:
            self._control.send(json.dumps(beat).encode(), socket.MSG_DONTWAIT)
            self._seen.clear()
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
        self.say("fault", **raw)
        self._suffering.take(Fault.parse(raw), time.monotonic())

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


def _engine(me: Identity, pool: tuple[Path, int] | None) -> WheelEngine | PooledEngine:
    if pool is None:
        return WheelEngine(operators=me.operators, arena_bytes=me.arena_bytes)
    return PooledEngine(*pool, device_id=me.device_id, operators=me.operators, arena_bytes=me.arena_bytes)
