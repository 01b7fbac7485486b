"""Scenario files for the C test programs (format: `c/bench.h`), signed with the rig's keys."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from device_firmware.host.core import encode_operators
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action, CommandVerb
from ota.desired import Command, Desired, DesiredEntry, sign_command, sign_desired
from tests.firmware import artifacts

VECTORS = Path(__file__).parent.parent / "vectors"
CAPACITY = 4 * 4096
IDENTITY, RETAINED = 0, 1


def write(path: Path, items: list[tuple[int, str, bytes]]) -> Path:
    """Write a scenario: the identity, then (kind, topic, payload)."""
    roots = b"".join(key.public_key for key in artifacts.ROOTS)
    identity = (
        artifacts.INSTALLATION
        + artifacts.CLASS_ID
        + artifacts.MAC_KEY
        + bytes((len(artifacts.ROOTS), 2))
        + roots
    )
    identity += struct.pack("<I", CAPACITY) + encode_operators(artifacts.OPERATORS)
    out = [b"FCSC"]
    for kind, topic, payload in [(IDENTITY, artifacts.DEVICE, identity), *items]:
        raw = topic.encode()
        out += [struct.pack("<BH", kind, len(raw)), raw, struct.pack("<I", len(payload)), payload]
    path.write_bytes(b"".join(out))
    return path


def desired(number: int, entry: DesiredEntry | None, *, version: int = 1) -> bytes:
    """A signed desired document for slot 0."""
    entries = {} if entry is None else {0: entry}
    document = Desired(
        artifacts.DEVICE, version << 40 | number, version, issued=artifacts.NOW, entries=entries
    )
    return sign_desired(document, artifacts.ONLINE, installation_id=artifacts.INSTALLATION)


def command(number: int) -> bytes:
    """A signed command that changes nothing but the counter."""
    document = Command(artifacts.DEVICE, 1 << 40 | number, 1, CommandVerb.REPORT_NOW, issued=artifacts.NOW)
    return sign_command(document, artifacts.ONLINE, installation_id=artifacts.INSTALLATION)


def models() -> dict[str, artifacts.Artifact]:
    """Models A, B (inline vectors and a blob) and C, whose outputs are wrong; named by their first byte."""
    return {
        "A": artifacts.artifact(3, name="a", data=b"A" + bytes(5000), floor=1),
        "B": artifacts.artifact(5, name="b", data=b"B" + bytes(range(256)) * 20, floor=2, force_blob=True),
        "C": artifacts.artifact(7, name="c", data=b"C" * 100),
    }


def cuts(path: Path) -> Path:
    """The scenario of cuts.c."""
    model = models()
    own, cmd = topics.desired(artifacts.DEVICE), topics.cmd(artifacts.DEVICE)
    items = [(RETAINED, topics.TRUST, artifacts.signed_trust(artifacts.trust()))]
    for item in model.values():
        items += [(RETAINED, topic, payload) for topic, payload in item.publications().items()]
    items += [
        (2, own, desired(1, DesiredEntry(Action.RUN, model["A"].id, attempt=1))),
        (3, own, desired(2, DesiredEntry(Action.RUN, model["B"].id, attempt=2))),
        (4, own, desired(3, DesiredEntry(Action.RUN_OTHER_BANK, model["A"].id, attempt=3))),
        (5, own, desired(4, DesiredEntry(Action.RUN, model["C"].id, attempt=4))),
        (6, topics.TRUST, artifacts.signed_trust(artifacts.trust(version=2))),
        (8, own, desired(5, DesiredEntry(Action.STOP, attempt=5))),
        (9, own, desired(6, DesiredEntry(Action.RUN, model["A"].id, attempt=6))),
    ]
    items += [(7, cmd, command(number)) for number in range(1, 17)]
    return write(path, items)


def groups(path: Path) -> Path:
    """The scenario of groups.c: A and B run, then D and E come together, or D and F, which is bad."""
    made = {
        name: artifacts.artifact(seq, name=name.lower(), data=name.encode() * size, slot=slot, floor=1)
        for name, seq, size, slot in (("A", 3, 100, 0), ("B", 3, 5000, 1), ("D", 4, 5000, 0))
    }
    made["E"] = artifacts.artifact(4, name="e", data=b"E" * 100, slot=1, floor=2)
    made["F"] = artifacts.artifact(5, name="f", data=b"F" * 100, slot=1)
    own = topics.desired(artifacts.DEVICE)
    items = [(RETAINED, topics.TRUST, artifacts.signed_trust(artifacts.trust()))]
    for item in made.values():
        items += [(RETAINED, topic, payload) for topic, payload in item.publications().items()]
    for kind, pair, not_before in ((2, "AB", 0), (3, "DE", artifacts.NOW), (4, "DF", artifacts.NOW)):
        entries = {
            slot: DesiredEntry(Action.RUN, made[name].id, not_before=not_before, attempt=kind)
            for slot, name in enumerate(pair)
        }
        document = Desired(artifacts.DEVICE, 1 << 40 | kind, 1, issued=artifacts.NOW, entries=entries)
        items.append(
            (kind, own, sign_desired(document, artifacts.ONLINE, installation_id=artifacts.INSTALLATION))
        )
    items += [(7, topics.cmd(artifacts.DEVICE), command(number)) for number in range(1, 17)]
    return write(path, items)


def judged(path: Path) -> Path:
    """The scenario of judge.c: good documents, and the shared vectors as seeds."""
    model = models()["A"]
    own, cmd = topics.desired(artifacts.DEVICE), topics.cmd(artifacts.DEVICE)
    items = [(RETAINED, topics.TRUST, artifacts.signed_trust(artifacts.trust()))]
    items += [(RETAINED, topic, payload) for topic, payload in model.publications().items()]
    items += [
        (2, own, desired(9, DesiredEntry(Action.RUN, model.id, attempt=1))),
        (3, cmd, command(9)),
        (5, topics.manifest(model.mid), model.message),
        (4, topics.TRUST, artifacts.signed_trust(artifacts.trust(version=2, issued=artifacts.NOW - 900))),
    ]
    for kind, topic in (("desired", own), ("cmd", cmd), ("trust", topics.TRUST)):
        seeds = json.loads((VECTORS / f"{kind}.json").read_text())["vectors"]
        items += [(9, topic, bytes.fromhex(seed["hex"])) for seed in seeds[:40]]
    return write(path, items)
