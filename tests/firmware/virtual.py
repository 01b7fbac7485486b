"""Real virtual devices for tests: their supervisor as a process, a broker of their own, and a backend that
signs.

Nothing here is played: Mosquitto with TLS and ACL, the C core, the TFLM wheel, recordings, documents
signed by
the rig's keys. Only enrolment is left out: identities are written where a former run would have left them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tflite_micro.python.tflite_micro import runtime

from device_firmware.host.control import ask
from device_firmware.host.home import Home
from device_firmware.host.identity import Identity
from device_firmware.host.recordings import load_subject, stream
from fleet.mqtt import topics
from fleet.mqtt.codec import envelope
from fleet.mqtt.codec.event import Event, parse_event
from fleet.mqtt.codec.names import Action, UpdateState
from fleet.mqtt.codec.reported import Reported, SlotReport, parse_reported
from fleet.mqtt.codec.telemetry import Batch, parse_batch
from fleet.stack.ports import LOOPBACK
from ota.desired import Desired, DesiredEntry, sign_desired
from ota.hints import Hints
from ota.inspector import inspect
from ota.tensors import DType, GoldenVector, TensorSpec
from tests.firmware import artifacts
from tests.models.watch import ROOT, watch_dir
from tests.stack.services import Broker, Client, wait_until

MODELS = ROOT / "deploy" / "models"
OPERATORS = (0, 3, 9, 17, 22, 25, 40, 58, 65, 119)
"""What the test class links: the activity models, SLICE, WHILE, LESS and ADD; no ADD_N."""
SLOT_BYTES = 376_832
CONFIG = {2: 1, 3: 100}
"""Telemetry window 1 s, inference every 100 ms."""
TEST_USER = "svc.test-0"


until = functools.partial(wait_until, deadline_s=60.0)
"""Wait as long as a machine with eight other test processes may need."""


def model_bytes(name: str) -> bytes:
    """A committed model."""
    return (MODELS / f"{name}.tflite").read_bytes()


def golden(data: bytes, *, count: int = 4, offset: int = 0) -> list[GoldenVector]:
    """What TFLM answers to recorded windows, each byte wrong by `offset` LSB."""
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=400_000)
    scale = float(interpreter.get_input_details(0)["quantization_parameters"]["scales"][0])
    windows = stream(load_subject(watch_dir(), 6), seed=1)
    found = []
    for _ in range(count):
        raw = np.clip(np.round(next(windows)[0] / scale), -128, 127).astype(np.int8)[None]
        interpreter.set_input(raw, 0)
        interpreter.invoke()
        answer = interpreter.get_output(0).astype(np.int16) + offset
        found.append(GoldenVector((raw.tobytes(),), (np.clip(answer, -128, 127).astype(np.int8).tobytes(),)))
    return found


def artifact(
    data: bytes, seq: int, *, vectors: list[GoldenVector] | None = None, **changes: Any
) -> artifacts.Artifact:
    """A signed version of a .tflite, with the contract the file itself declares."""
    found = inspect(data)

    def specs(tensors: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec.of(DType(t.dtype), t.shape, t.scale, t.zero_point) for t in tensors)

    values: dict[str, Any] = {
        "name": "activity",
        "arena_bytes": 60_000,
        "operators": tuple(sorted(found.builtin_operators)),
        "inputs": specs(found.inputs),
        "outputs": specs(found.outputs),
        "hints": Hints(window=100, hop=50, channels=6, head=1, classes=7, anomaly=(3, 900)),
    }
    return artifacts.artifact(
        seq,
        data=data,
        golden=golden(data) if vectors is None else vectors,
        **values | changes,
    )


@dataclass
class Backend:
    """Publishes signed documents for one broker, and remembers and checks what devices send."""

    broker: Broker
    client: Client
    secrets: dict[str, str] = field(default_factory=dict)
    counter: int = 0

    def identity(self, device_id: str, **changes: Any) -> Identity:
        """A device the broker lets in."""
        self.secrets[device_id] = hashlib.sha256(device_id.encode()).hexdigest()
        self.broker.add_device(device_id, self.secrets[device_id])
        values: dict[str, Any] = {
            "device_id": device_id,
            "installation_id": artifacts.INSTALLATION,
            "class_id": artifacts.CLASS_ID,
            "device_class": "test",
            "chip": "host",
            "firmware": "1.0.0",
            "esp_nn": "",
            "arena_bytes": 200_000,
            "slot_bytes": (SLOT_BYTES,),
            "operators": OPERATORS,
            "broker_host": LOOPBACK,
            "broker_port": self.broker.port,
            "broker_ca": self.broker.tls.ca.read_text(),
            "broker_user": device_id,
            "broker_secret": self.secrets[device_id],
            "mac_key": mac_key(device_id),
            "roots": tuple(key.public_key for key in artifacts.ROOTS),
            "root_threshold": 2,
            "least_trust_version": 1,
        }
        return Identity(**values | changes)

    def publish(self, topic: str, payload: bytes) -> None:
        """Retained, acknowledged."""
        self.client.publish(topic, payload, retain=True)

    def stage(self, item: artifacts.Artifact) -> None:
        """Manifest, leaves and chunks."""
        for topic, payload in item.publications().items():
            self.publish(topic, payload)

    def document(self, device_id: str, entry: DesiredEntry | None, **changes: Any) -> bytes:
        """A signed desired document with the next counter."""
        self.counter += 1
        now_s = int(time.time())
        values: dict[str, Any] = {
            "device_id": device_id,
            "counter": 1 << 40 | now_s << 8 | self.counter % 256,
            "trust_version": 1,
            "issued": now_s,
            "entries": {} if entry is None else {0: entry},
            "config": CONFIG,
        }
        return sign_desired(
            Desired(**values | changes), artifacts.ONLINE, installation_id=artifacts.INSTALLATION
        )

    def want(self, device_id: str, item: artifacts.Artifact, *, attempt: int = 1, **changes: Any) -> bytes:
        """Stage a model and desire it. Returns the document."""
        self.stage(item)
        message = self.document(device_id, DesiredEntry(Action.RUN, item.id, attempt=attempt), **changes)
        self.publish(topics.desired(device_id), message)
        return message

    def _uplinks(self, device_id: str, kind: str) -> list[bytes]:
        topic = topics.device(device_id, kind)
        return [
            envelope.open_uplink(
                kind,
                payload,
                topic=topic,
                installation_id=artifacts.INSTALLATION,
                key_lookup=envelope.keyring(mac_key(device_id)),
            )
            for where, payload in list(self.client.messages)
            if where == topic
        ]

    def reports(self, device_id: str) -> list[Reported]:
        """Every reported document, its MAC checked."""
        return [parse_reported(payload) for payload in self._uplinks(device_id, "reported")]

    def batches(self, device_id: str) -> list[Batch]:
        """Every telemetry batch, its MAC checked."""
        return [parse_batch(payload) for payload in self._uplinks(device_id, "telemetry")]

    def events(self, device_id: str) -> list[Event]:
        """Every event, its MAC checked."""
        return [parse_event(payload) for payload in self._uplinks(device_id, "event")]

    def until(
        self,
        device_id: str,
        what: str,
        accept: Callable[[Reported], bool],
        *,
        deadline_s: float = 30.0,
    ) -> Reported:
        """The newest reported document once it is as `accept` wants it."""
        seen: list[Reported] = []

        def look() -> Reported | None:
            seen[:] = self.reports(device_id)[-1:]
            return seen[0] if seen and accept(seen[0]) else None

        try:
            found = wait_until(look, deadline_s=deadline_s, what=f"{device_id}: {what}")
        except AssertionError as error:
            raise AssertionError(f"{error}; {seen}") from None
        assert found is not None
        return found

    def until_state(
        self, device_id: str, state: UpdateState, item: artifacts.Artifact, *, deadline_s: float = 30.0
    ) -> SlotReport:
        """Slot 0 once it has come to `state` with `item`."""

        def accept(report: Reported) -> bool:
            slot = report.slots[0]
            return slot.state == state and slot.target == item.id[:16]

        return self.until(device_id, f"{state.name} {item.mid}", accept, deadline_s=deadline_s).slots[0]

    def states(self, device_id: str) -> list[str]:
        """States of slot 0 in the order reported, repeats left out."""
        seen: list[str] = []
        for report in self.reports(device_id):
            if not seen or seen[-1] != report.slots[0].state.name:
                seen.append(report.slots[0].state.name)
        return seen


def mac_key(device_id: str) -> bytes:
    """The MAC key of a device of the tests."""
    return hashlib.sha256(b"mac " + device_id.encode()).digest()


@contextlib.contextmanager
def backend_of(broker: Broker) -> Iterator[Backend]:
    """A backend at a running broker: trust document 1 is out, every uplink is subscribed."""
    with Client(broker, TEST_USER, broker.secret(TEST_USER)) as client:
        for kind in ("reported", "telemetry", "event", "online"):
            client.subscribe(topics.uplink_filter(kind))
        backend = Backend(broker, client)
        backend.publish(topics.TRUST, artifacts.signed_trust(artifacts.trust()))
        yield backend


@dataclass
class Devices:
    """A running supervisor and the folder it keeps."""

    folder: Path
    process: subprocess.Popen[bytes]
    log_file: Path

    def add(self, *identities: Identity) -> None:
        """Start devices that hold an identity already."""
        tickets = self.folder / "tickets.jsonl"
        lines = []
        for one in identities:
            home = Home(self.folder / one.device_id)
            home.make()
            one.save(home.identity_file)
            ticket = {"device_id": one.device_id, "token": "used", "class": "test", "url": "https://none"}
            lines.append(json.dumps(ticket))
        tickets.write_text("\n".join(lines))
        assert self.ask({"do": "add", "tickets": str(tickets)}) == {"refused": {}}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request to the control socket."""
        return ask(self.folder, request, timeout_s=60)

    def status(self, device_id: str) -> dict[str, Any]:
        """What the supervisor knows of one device."""
        found: dict[str, Any] = self.ask({"do": "status"})["devices"][device_id]
        return found

    def fault(self, device_id: str, kind: str, **values: Any) -> None:
        """Ask for a fault."""
        assert self.ask({"do": "fault", "device": device_id, "kind": kind, **values}) == {"ok": True}

    def log(self, device_id: str | None = None) -> list[dict[str, Any]]:
        """Log lines that are ours, of one device when named. What TFLM prints itself is left out."""
        lines = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return [line for line in lines if device_id is None or line.get("device") == device_id]


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Devices]:
    """A supervisor of `folder`, up and listening; told to stop at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "supervisor.log"
    command = [sys.executable, "-m", "device_firmware.host.supervisor"]
    command += ["--dir", str(folder), "--data", str(watch_dir()), *arguments]
    with log_file.open("ab") as log:
        process = subprocess.Popen(command, stderr=log, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    devices = Devices(folder, process, log_file)
    try:
        wait_until(lambda: _answers(devices), deadline_s=60, what="the supervisor")
        yield devices
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(devices: Devices) -> bool:
    assert devices.process.poll() is None, devices.log_file.read_text()[-2000:]
    try:
        devices.ask({"do": "status"})
    except OSError:
        return False
    return True
