"""One core on a bench: real signatures and codecs, a broker that is a dict, a clock that stands still.

The core under test is the shipped C. Only what stands for hardware and network is played here: an engine that
answers from a script, and a port that keeps what was sent and delivers what is retained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_firmware.host.core import Core, Ident, Reset, State
from fleet.mqtt import topics
from fleet.mqtt.codec import envelope
from fleet.mqtt.codec.event import Event, parse_event
from fleet.mqtt.codec.names import Action, CommandVerb
from fleet.mqtt.codec.reported import Reported, parse_reported
from fleet.mqtt.codec.telemetry import Batch, parse_batch
from ota.desired import Command, Desired, DesiredEntry, sign_command, sign_desired
from ota.trust import TrustDocument
from tests.firmware.artifacts import (
    DEVICE,
    INSTALLATION,
    MAC_KEY,
    NOW,
    ONLINE,
    Artifact,
    ident,
    signed_trust,
    trust,
)
from tests.firmware.played import Port, ScriptedEngine


class Rig:
    """A device on the bench. `run` steps it until nothing is left to do at this moment."""

    def __init__(
        self, folder: Path, *, identity: Ident | None = None, engine: ScriptedEngine | None = None
    ) -> None:
        self.path = folder / "flash.bin"
        self.identity = identity or ident()
        self.engine = engine or ScriptedEngine()
        self.port = Port()
        self.ms = 5_000
        self.unix = NOW
        self.has_clock = True
        self.counter = 0
        self.acknowledges = True
        self.core = self._open()

    def _open(self) -> Core:
        core = Core(self.path, self.identity, engine=self.engine, port=self.port)
        core.clock_set(self.ms, self.unix)
        core.seed(7)
        return core

    def start(self, reason: Reset = Reset.POWER) -> None:
        """Boot and connect."""
        self.core.boot(reason)
        self.core.link(True, True)
        self.run()

    def restart(self, reason: Reset = Reset.POWER, *, connect: bool = True) -> None:
        """The process ended and a new one started, in the way `reason` says."""
        self.core.close()
        self.identity = replace(self.identity, boot=self.identity.boot + 1)
        retained, alter, refuse = self.port.retained, self.port.alter, self.port.refuse_switch
        self.port = Port(retained=retained, alter=alter, refuse_switch=refuse)
        self.engine.loaded.clear()
        self.core = self._open()
        self.core.boot(reason)
        if connect:
            self.core.link(True, True)
        self.run()

    def reconnect(self, *, fresh: bool = True) -> None:
        """The connection breaks and comes up again."""
        self.core.link(False)
        self.port.subscriptions.clear()
        self.core.link(True, fresh)
        self.run()

    def run(self, limit: int = 5000) -> int:
        """Step and deliver until the core wants to wait. Returns the ms it wants to wait."""
        acknowledged = len(self.port.sent)
        for _ in range(limit):
            while self.port.inbox:
                self.core.message(*self.port.inbox.popleft())
            again = self.core.step()
            if self.acknowledges:
                for item in self.port.sent[acknowledged:]:
                    if item[2]:
                        self.core.sent(item[4])
                acknowledged = len(self.port.sent)
            if self.port.reconnects:
                self.port.reconnects = 0
                self.core.link(False)
                self.core.link(True, False)
                continue
            if again and not self.port.inbox:
                return again
        raise AssertionError(f"still busy after {limit} steps: {self.slot()}")

    def advance(self, seconds: float, *, step_ms: int = 250) -> None:
        """Let time pass, working as it becomes due."""
        end = self.ms + round(seconds * 1000)
        while self.ms < end:
            self.ms = min(end, self.ms + step_ms)
            if self.has_clock:
                self.unix = NOW + (self.ms - 5_000) // 1000
            self.core.clock_set(self.ms, self.unix)
            self.run()

    def infer(self, count: int = 1, *, scores: Sequence[float] = (0.7, 0.2, 0.1), label: int = -1) -> None:
        """Inferences of the running model."""
        for _ in range(count):
            self.core.sample(0, us=800, scores=scores, label=label)

    # --- what the backend does -----------------------------------------------------------------

    def deliver(self, topic: str, payload: bytes) -> int:
        """Publish retained and hand it to the core; its answer."""
        self.port.retained[topic] = payload
        result = self.core.message(topic, payload)
        self.run()
        return result

    def give_trust(self, document: TrustDocument | None = None) -> int:
        """Publish a trust document."""
        return self.deliver(topics.TRUST, signed_trust(document or trust()))

    def next_counter(self, version: int = 1) -> int:
        """A counter above the ones used."""
        self.counter += 1
        return version << 40 | self.unix << 8 | self.counter

    def desired_message(self, entries: dict[int, DesiredEntry], *, version: int = 1, **changes: Any) -> bytes:
        """A signed desired document."""
        values: dict[str, Any] = {
            "device_id": DEVICE,
            "counter": self.next_counter(version),
            "trust_version": version,
            "issued": self.unix,
            "entries": entries,
        }
        return sign_desired(Desired(**values | changes), ONLINE, installation_id=INSTALLATION)

    def want(self, *entries: DesiredEntry, **changes: Any) -> int:
        """Publish a desired document with one entry per slot."""
        message = self.desired_message(dict(enumerate(entries)), **changes)
        return self.deliver(topics.desired(DEVICE), message)

    def stage(self, item: Artifact) -> None:
        """Publish a model version."""
        self.port.retained |= item.publications()

    def offer(self, item: Artifact, *, attempt: int = 1, version: int = 1, **changes: Any) -> int:
        """Stage a model and desire it; changes are those of the entry."""
        self.stage(item)
        return self.want(DesiredEntry(Action.RUN, item.id, attempt=attempt, **changes), version=version)

    def command(self, verb: CommandVerb | int, *args: int, **changes: Any) -> int:
        """Send a command."""
        values: dict[str, Any] = {
            "device_id": DEVICE,
            "counter": self.next_counter(),
            "trust_version": 1,
            "verb": verb,
            "issued": self.unix,
            "args": args or None,
        }
        message = sign_command(Command(**values | changes), ONLINE, installation_id=INSTALLATION)
        result = self.core.message(topics.cmd(DEVICE), message)
        self.run()
        return result

    def confirm(self) -> None:
        """Serve out the probation of a candidate."""
        assert self.core.running(0) is not None, self.slot()
        self.infer(3)
        self.advance(3)
        assert self.slot().state == State.CONFIRMED, self.slot()

    def install(self, item: Artifact, *, attempt: int = 1) -> None:
        """Offer a model and see it confirmed."""
        self.offer(item, attempt=attempt)
        self.confirm()

    # --- what the backend sees -----------------------------------------------------------------

    def slot(self) -> Any:
        """Slot 0."""
        return self.core.slot(0)

    def _open_uplinks(self, kind: str) -> list[bytes]:
        topic = topics.device(DEVICE, kind)
        return [
            envelope.open_uplink(
                kind, payload, topic=topic, installation_id=INSTALLATION, key_lookup=envelope.keyring(MAC_KEY)
            )
            for where, payload, *_ in self.port.sent
            if where == topic
        ]

    def reports(self) -> list[Reported]:
        """Every reported document, parsed by the backend's codec."""
        return [parse_reported(payload) for payload in self._open_uplinks("reported")]

    def events(self) -> list[Event]:
        """Every event, parsed by the backend's codec."""
        return [parse_event(payload) for payload in self._open_uplinks("event")]

    def batches(self) -> list[Batch]:
        """Every telemetry batch, parsed by the backend's codec."""
        return [parse_batch(payload) for payload in self._open_uplinks("telemetry")]

    def states(self) -> list[str]:
        """States of slot 0 in the order reported, repeats left out."""
        seen: list[str] = []
        for report in self.reports():
            name = report.slots[0].state.name
            if not seen or seen[-1] != name:
                seen.append(name)
        return seen
