"""What each target starts from: shared vectors, documents of the test rig, and small scripts for devices."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleet.mqtt import topics
from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import Action, CommandVerb
from ota.desired import Command, Desired, DesiredEntry
from tests.firmware import artifacts, scenario

CORPUS = Path(__file__).parent / "corpus"
TARGETS = (
    *("cbor", "cose", "trust", "desired", "command", "manifest", "blob"),
    *("leaves", "message", "signed", "boot"),
)
KINDS = ("manifest", "trust", "desired", "cmd")


def write_scenario(path: Path) -> Path:
    """The device of the fuzz targets (kinds: `c/devices.c`): A runs, B's chunks are withheld at first."""
    own, model = topics.desired(artifacts.DEVICE), scenario.models()
    items = [(scenario.RETAINED, topics.TRUST, artifacts.signed_trust(artifacts.trust()))]
    for name in ("A", "B"):
        for topic, payload in model[name].publications().items():
            is_chunk = topic.split("/")[-1].isdigit()
            items.append((4 if name == "B" and is_chunk else scenario.RETAINED, topic, payload))
    items += [
        (2, own, scenario.desired(1, DesiredEntry(Action.RUN, model["A"].id, attempt=1))),
        (3, own, scenario.desired(2, DesiredEntry(Action.RUN, model["B"].id, attempt=2))),
    ]
    return scenario.write(path, items)


def _vectors(kind: str) -> Iterator[bytes]:
    for vector in json.loads((scenario.VECTORS / f"{kind}.json").read_text())["vectors"]:
        yield bytes.fromhex(vector["hex"])


def _payloads(kind: str) -> Iterator[bytes]:
    for message in _vectors(kind):
        try:
            parts: Any = decode_strict(message, max_bytes=4096, may_tag=True).value
        except (CodecError, AttributeError):
            continue
        if isinstance(parts, list) and len(parts) == 4 and isinstance(parts[2], bytes):
            yield parts[2]


def _item(number: int, payload: bytes) -> bytes:
    return bytes((number,)) + struct.pack(">H", len(payload)) + payload


def _messages() -> Iterator[bytes]:
    """Scripts of (item number, payload) as `fuzz_message` reads them; number 0 is the identity."""
    raw = scenario_payloads()
    yield from (_item(number, payload) for number, payload in enumerate(raw) if number)
    chunks = [(number, payload) for number, payload in enumerate(raw) if number]
    yield b"".join(_item(number, payload) for number, payload in chunks[:8])
    yield b"".join(_item(number, payload) for number, payload in reversed(chunks[-8:]))
    for kind in KINDS[1:]:
        topic = topics.TRUST if kind == "trust" else topics.device(artifacts.DEVICE, kind)
        for message in list(_vectors(kind))[::4]:
            number = 180 + len(topic)  # 180 % 90 == 0: the topic's length
            yield bytes((number,)) + topic.encode() + struct.pack(">H", len(message)) + message


def scenario_payloads() -> list[bytes]:
    """Payloads of the fuzz scenario by item number."""
    model = scenario.models()
    found = [b"", artifacts.signed_trust(artifacts.trust())]
    for name in ("A", "B"):
        found += model[name].publications().values()
    for number, name in ((1, "A"), (2, "B")):
        found.append(scenario.desired(number, DesiredEntry(Action.RUN, model[name].id, attempt=number)))
    return found


def _documents() -> Iterator[tuple[int, bytes]]:
    """(kind, payload) that the device of the scenario would take."""
    model = scenario.models()
    entries = [
        {0: DesiredEntry(Action.RUN, model["B"].id, attempt=3)},
        {0: DesiredEntry(Action.RUN_OTHER_BANK, model["B"].id, attempt=4)},
        {0: DesiredEntry(Action.STOP, attempt=5)},
        {
            slot: DesiredEntry(Action.RUN, bytes([slot + 1] * 32), artifacts.NOW, artifacts.NOW + 9)
            for slot in range(4)
        },
        {},
    ]
    for number, entry in enumerate(entries):
        config = {1: 20, 2: 5, 5: (2, 4), 6: (127, 0, 1440), 7: (1, 1), 9: 10} if number % 2 else {}
        document = Desired(
            artifacts.DEVICE, 1 << 40 | 100 + number, 1, issued=artifacts.NOW, entries=entry, config=config
        )
        yield 2, document.encode()
    for number, verb in enumerate(CommandVerb):
        args = (1, 2, 3) if verb == CommandVerb.RESEND_TELEMETRY else None
        command = Command(artifacts.DEVICE, 1 << 40 | 100 + number, 1, verb, issued=artifacts.NOW, args=args)
        yield 3, command.encode()
    yield 1, artifacts.trust(version=2).encode()
    yield 1, artifacts.trust(version=2, revoked=(artifacts.RELEASE.kid,)).encode()
    for artifact in model.values():
        yield 0, artifact.manifest.encode()


def _signed() -> Iterator[bytes]:
    found = [_item(kind, payload) for kind, payload in _documents()]
    yield from found
    yield b"".join(found[:5])
    yield b"".join(found[5:11])


def _leaves() -> Iterator[bytes]:
    for size, blob in ((100, 0), (4095, 0), (5000, 0), (5000, 100)):
        chunks = -(-(size + 1) // 4096) + -(-blob // 4096)
        data = struct.pack(">HHB", size, blob, 8 * chunks) + bytes(range(8 * chunks))
        yield data + struct.pack(">HH", 0, min(size + 1, 4096)) + bytes(min(size + 1, 4096))


def _edit(what: int, record: int, at: int, data: bytes) -> bytes:
    return bytes((len(data) * 8 + what, record)) + at.to_bytes(3, "big") + data


def _boots() -> Iterator[bytes]:
    for how in range(25):
        yield bytes((how,))
        yield bytes((how,)) + _edit(3, 2, 272, b"\x03") + _edit(3, 3, 272, b"\x04\x01\x01")
        yield bytes((how,)) + _edit(6, 15, 3, b"") + _edit(3, 15, 16, b"\xff" * 8) + _edit(7, 15, 0, b"")
        yield bytes((how,)) + _edit(4, 0, 10 * 4096, b"\x00") + _edit(5, 0, 9 * 4096, b"\x0b")
        yield bytes((how,)) + b"".join(_edit(4, 0, sector * 4096, b"\xff") for sector in (0, 1, 2, 3))


def seeds(target: str) -> list[bytes]:
    """The inputs a target starts from, without what fuzzing found."""
    made: Iterator[bytes]
    if target == "cbor":
        made = _vectors("cbor")
    elif target == "cose":
        made = (message for kind in KINDS for message in _vectors(kind))
    elif target in ("trust", "desired", "manifest"):
        made = _payloads(target)
    elif target == "command":
        made = _payloads("cmd")
    elif target == "blob":
        vector = [[bytes(2), bytes(4)], [bytes(3)]]
        made = iter([bytes((count,)) + encode([vector] * count) for count in range(8)])
    else:
        made = {"leaves": _leaves, "message": _messages, "signed": _signed, "boot": _boots}[target]()
    return list(dict.fromkeys(made))


def corpus(target: str) -> list[bytes]:
    """What fuzzing found so far: inputs that reach code the seeds do not, and former crashes."""
    path = CORPUS / f"{target}.json"
    return [bytes.fromhex(item) for item in json.loads(path.read_text())] if path.exists() else []
