"""One core on a bench: real signatures and codecs, a broker that is a dict, a clock that stands still.

The core under test is the shipped C. Only what stands for hardware and network is played here: an engine that
answers from a script, and a port that keeps what was sent and delivers what is retained.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from device_firmware.host.core import Core, EngineError, Ident, Model, Reset, State
from fleet.mqtt import topics
from fleet.mqtt.codec import envelope
from fleet.mqtt.codec.event import Event, parse_event
from fleet.mqtt.codec.names import Action, CommandVerb
from fleet.mqtt.codec.reported import Reported, parse_reported
from fleet.mqtt.codec.telemetry import Batch, parse_batch
from ota import chunking
from ota.desired import Command, Desired, DesiredEntry, sign_command, sign_desired
from ota.hints import Hints
from ota.manifest import Manifest
from ota.signing import KeyPair, manifest_id, sign_manifest
from ota.tensors import DType, GoldenVector, TensorSpec, make_golden
from ota.trust import TrustDocument, sign_trust

DEVICE = "dev-7"
INSTALLATION = bytes(range(16))
CLASS_ID = hashlib.sha256(b"class").digest()[:16]
MAC_KEY = hashlib.sha256(b"mac").digest()
NOW = 1_790_000_100
OPERATORS: tuple[int | tuple[int, str], ...] = (0, 3, 9, 22, 25, (32, "SignalWindow"))
CAPACITY = 64 * 4096


def keypair(name: str) -> KeyPair:
    """The key pair of a name, the same in every run."""
    return KeyPair.from_seed(hashlib.sha256(b"rig " + name.encode()).digest())


ROOTS = [keypair(f"root{i}") for i in range(3)]
RELEASE, RELEASE2, ONLINE = keypair("release"), keypair("release2"), keypair("online")


def ident(**changes: Any) -> Ident:
    """The device of every test."""
    base = Ident(
        device_id=DEVICE,
        installation_id=INSTALLATION,
        class_id=CLASS_ID,
        roots=tuple(key.public_key for key in ROOTS),
        root_threshold=2,
        mac_key=MAC_KEY,
        boot=1,
        operators=OPERATORS,
        arena_bytes=100_000,
        slot_capacity=(CAPACITY,),
        probation_n=3,
        probation_s=2,
    )
    return replace(base, **changes)


def trust(**changes: Any) -> TrustDocument:
    """Trust document 1: one of one release key."""
    values: dict[str, Any] = {
        "version": 1,
        "issued": NOW - 1000,
        "expires": 0,
        "roots": tuple(key.public_key for key in ROOTS),
        "root_threshold": 2,
        "release": (RELEASE.public_key,),
        "release_threshold": 1,
        "online": (ONLINE.public_key,),
    }
    return TrustDocument(**values | changes)


def signed_trust(document: TrustDocument, keys: Sequence[KeyPair] = tuple(ROOTS[:2])) -> bytes:
    """The document signed by two roots."""
    return sign_trust(document.encode(), list(keys))


@dataclass(frozen=True)
class Artifact:
    """A model ready to be staged: its bytes, golden blob and signed manifest."""

    data: bytes
    blob: bytes
    message: bytes
    manifest: Manifest

    @property
    def id(self) -> bytes:
        """SHA-256 of the signed manifest."""
        return manifest_id(self.message)

    @property
    def mid(self) -> str:
        """The id in topics."""
        return self.id[:8].hex()

    def publications(self) -> dict[str, bytes]:
        """Everything that is retained for it."""
        return dict(chunking.publications(self.mid, self.message, self.data, self.blob))


IN, OUT = TensorSpec.of(DType.INT8, (1, 4), 0.5), TensorSpec.of(DType.INT8, (1, 3), 0.00390625, -128)


def vectors(count: int = 2) -> list[GoldenVector]:
    """Golden vectors that `ScriptedEngine` answers exactly: each output byte is an input byte."""
    return [GoldenVector((bytes([i, 2, 3, 4]),), (bytes([i, 2, 3]),)) for i in range(count)]


def artifact(
    seq: int = 1,
    *,
    size: int = 20_000,
    name: str = "har",
    data: bytes | None = None,
    blob: bytes | None = None,
    manifest_changes: dict[str, Any] | None = None,
    golden: Sequence[GoldenVector] | None = None,
    tolerance: int = 2,
    force_blob: bool = False,
    signers: Sequence[KeyPair] = (RELEASE,),
    **changes: Any,
) -> Artifact:
    """A signed model version; its bytes follow from name and seq unless given."""
    if data is None:
        data = (hashlib.sha256(f"{name} {seq}".encode()).digest() * (size // 32 + 1))[:size]
    many = list(golden if golden is not None else vectors(40 if force_blob else 2))
    entry, made = make_golden(many, tolerance)
    blob = made if blob is None else blob
    values: dict[str, Any] = {
        "name": name,
        "version": f"1.0.{seq}",
        "seq": seq,
        "floor": 0,
        "classes": (CLASS_ID,),
        "size": len(data),
        "sha256": hashlib.sha256(data).digest(),
        "leaves_sha256": chunking.leaves_sha256(data, blob),
        "arena_bytes": 20_000,
        "firmware": (1, 0, 0),
        "operators": (3, 9, 25),
        "inputs": (IN,),
        "outputs": (OUT,),
        "golden": entry,
        "created": NOW - 500,
        "hints": Hints(window=4, hop=4, channels=1, head=1, classes=3, anomaly=(3, 900)),
    }
    manifest = Manifest(**values | changes | (manifest_changes or {}))
    return Artifact(data, blob, sign_manifest(manifest.encode(), list(signers)), manifest)


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
