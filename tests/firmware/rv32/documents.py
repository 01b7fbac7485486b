"""The shared vectors as one script for the emulated chip, and what it should say of each good document."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_firmware.host.core import CODES
from device_firmware.host.rv32.bench import Answer, Script, Verb
from fleet.mqtt import topics
from ota.desired import Command, Desired, sign_desired
from ota.hints import Hints
from ota.manifest import Manifest
from ota.tensors import GoldenInline, TensorSpec
from ota.trust import TrustDocument
from tests.vectors import keys as k
from tests.vectors.collection import unpack

FOLDER = Path(__file__).parents[2] / "vectors"
KINDS = ("cbor", "manifest", "trust", "desired", "cmd")
DEFAULT_CONFIG: dict[int, Any] = {
    1: 300,
    2: 60,
    3: 1000,
    4: 0,
    5: [3, 5],
    6: [0, 0, 0],
    7: [0, 0],
    8: 0,
    9: 0,
    10: 900,
}


@dataclass
class Case:
    """One vector: `answer` is the number of the answer that judges it, `state` of the one that shows the
    device afterwards, `before` of the one that shows it before.
    """

    vector: dict[str, Any]
    answer: int
    before: int = -1
    state: int = -1


def load(kind: str) -> list[dict[str, Any]]:
    """Every vector of a kind that a C reader judges, each with its whole context."""
    data = json.loads((FOLDER / f"{kind}.json").read_text())
    return [
        item | {"context": data["context"] | item.get("context", {})}
        for item in data["vectors"]
        if "c" in item.get("readers", ("c",))
        # in C the envelope has the limit on size, which the documents' own vectors test
        and not (kind == "cbor" and item["expect"] == "too_large")
    ]


class Book:
    """Collects all vectors into one script. A device is set up once per context and restored per vector."""

    def __init__(self) -> None:
        self.script = Script()
        self.cases: dict[str, list[Case]] = {kind: [] for kind in KINDS}
        self._context = ""
        for kind in KINDS:
            for vector in sorted(load(kind), key=lambda item: json.dumps(item["context"])):
                self.cases[kind].append(self._add(kind, vector))

    def _add(self, kind: str, vector: dict[str, Any]) -> Case:
        message = bytes.fromhex(vector["hex"])
        if kind == "cbor":
            return Case(vector, self.script.add(Verb.CBOR, message))
        self._set_up(kind, vector["context"])
        if vector["name"].endswith("the last counter again") and kind == "cmd":
            first = next(item for item in load("cmd") if item["expect"] == "ok")
            self.script.message(first["context"]["topic"], bytes.fromhex(first["hex"]))
        if kind == "manifest":
            return Case(vector, self.script.add(Verb.MANIFEST, message))
        before = self.script.add(Verb.STATE)
        topic = topics.TRUST if kind == "trust" else vector["context"]["topic"]
        answer = self.script.message(topic, message)
        return Case(vector, answer, before, self.script.add(Verb.STATE))

    def _set_up(self, kind: str, context: dict[str, Any]) -> None:
        """The device stands where the context says."""
        name = json.dumps([kind, context])
        if name == self._context:
            self.script.restore(0)
            return
        self._context = name
        roots = [bytes.fromhex(root) for root in context.get("roots", ())]
        self.script.identity(
            context.get("device_id", k.DEVICE),
            installation_id=bytes.fromhex(context.get("installation_id", k.INSTALLATION.hex())),
            class_id=bytes(16),
            mac_key=k.MAC_KEY,
            roots=roots or [k.pub(root) for root in ("root", "root2", "root3")],
            root_threshold=context.get("root_threshold", 2),
            capacity=4096,
            operators=b"\x80",
            least_trust_version=context.get("min_version", 1),
        )
        self.script.clock(1000, context.get("now") or 0)
        self.script.boot()
        if "trust" in context:
            trust = bytes.fromhex(context["trust"])
            self.script.message(topics.TRUST, trust)
            if context.get("last_counter"):
                version = TrustDocument.parse(unpack(trust)[2]).version
                last = Desired(context["device_id"], context["last_counter"], version, issued=1)
                inst = bytes.fromhex(context["installation_id"])
                self.script.message(
                    context["topic"], sign_desired(last, k.KEYS["online"], installation_id=inst)
                )
        self.script.save(0)


def code(answer: Answer) -> str:
    """The name of what the core said."""
    return next(name for name, number in CODES.items() if number == -answer.result) if answer.result else "ok"


def manifest_fields(message: bytes) -> list[tuple[str, str]]:
    """What a reader of this manifest must have understood, as `bench.c` prints it."""
    m = Manifest.parse(unpack(message)[2])
    hints = m.hints or Hints()
    anomaly = (*(hints.anomaly or ()), 0, 0)[:2]
    inline = isinstance(m.golden, GoldenInline)
    numbers = (
        *(hints.window, hints.hop, hints.channels, hints.reset_policy, hints.resource_variables),
        *(hints.latency_budget_us, hints.head, hints.classes, *anomaly),
    )
    return [
        ("name", m.name),
        ("version", m.version),
        ("seq", str(m.seq)),
        ("floor", str(m.floor)),
        ("size", str(m.size)),
        ("arena", str(m.arena_bytes)),
        ("id", hashlib.sha256(message).hexdigest()),
        ("sha256", m.sha256.hex()),
        ("leaves", m.leaves_sha256.hex()),
        ("firmware", ".".join(map(str, m.firmware))),
        ("expires", str(m.expires or 0)),
        ("kind", str(m.kind)),
        ("slot", str(m.slot)),
        ("chunks", str(m.layout.total)),
        ("in", ",".join(map(_tensor, m.inputs))),
        ("out", ",".join(map(_tensor, m.outputs))),
        ("golden", str(len(m.golden.vectors) if isinstance(m.golden, GoldenInline) else m.golden.count)),
        ("tol", str(m.golden.tolerance)),
        ("blob", str(0 if inline else m.blob_size)),
        ("hints", ",".join(str(number or 0) for number in numbers)),
        ("labels", (hints.labels or bytes(8)).hex()),
    ]


def _tensor(tensor: TensorSpec) -> str:
    shape = "x".join(map(str, tensor.shape))
    return f"{tensor.dtype.value}:{shape}:{tensor.scale_bits}:{tensor.zero_point}:{tensor.size_bytes}"


def trust_fields(message: bytes) -> list[tuple[str, str]]:
    """What a holder of this trust document must have taken over."""
    t = TrustDocument.parse(unpack(message)[2])
    return [
        ("trust", str(t.version)),
        ("issued", str(t.issued)),
        ("expires", str(t.expires)),
        *_role("roots", t.root_threshold, t.roots),
        *_role("release", t.release_threshold, t.release),
        *_role("online", 1, t.online),
        *_role("firmware", t.firmware_threshold, t.firmware),
        *(("revoked", kid.hex()) for kid in t.revoked),
        *(("least", f"{rule.least_seq},{int(rule.resets)}") for rule in t.names),
    ]


def _role(name: str, threshold: int, public_keys: tuple[bytes, ...]) -> list[tuple[str, str]]:
    return [(name, f"{threshold}/{len(public_keys)}"), *(("key", key.hex()) for key in public_keys)]


def desired_fields(message: bytes, invalid: list[int]) -> list[tuple[str, str]]:
    """What a device under this desired document must want; keys in `invalid` keep their default."""
    d = Desired.parse(unpack(message)[2])
    config = DEFAULT_CONFIG | {key: value for key, value in d.config.items() if key not in invalid}
    words = [
        "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for _, value in sorted(config.items())
    ]
    found: list[tuple[str, str]] = [("desired", str(d.counter))]
    for slot, entry in sorted(d.entries.items()):
        numbers = (slot, int(entry.action), entry.not_before, entry.deadline, entry.attempt)
        found += [("entry", ",".join(map(str, numbers))), ("entry_id", entry.manifest_id.hex())]
    return [*found, ("config", ",".join(words)), ("invalid", str(sum(1 << key for key in invalid)))]


def command_counter(message: bytes) -> int:
    """The counter of a command."""
    return Command.parse(unpack(message)[2]).counter
