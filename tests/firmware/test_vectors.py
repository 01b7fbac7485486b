"""The C core gives every shared vector the code that Python gives it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from device_firmware.host import build
from device_firmware.host.core import CODES, Core, Ident, Phase, Reset, State, check_cbor
from fleet.mqtt import topics
from fleet.mqtt.codec.names import Action
from ota.desired import Desired, DesiredEntry, sign_desired
from ota.tensors import GoldenBlob
from tests.firmware.artifacts import artifact, ident
from tests.firmware.played import Port, ScriptedEngine
from tests.firmware.rig import Rig
from tests.vectors import keys as k
from tests.vectors.keys import pattern

FOLDER = Path(__file__).parent.parent / "vectors"


def vectors(kind: str) -> list[Any]:
    """The vectors of a file that C reads, each with its whole context."""
    data = json.loads((FOLDER / f"{kind}.json").read_text())
    return [
        pytest.param(item | {"context": data["context"] | item.get("context", {})}, id=item["name"])
        for item in data["vectors"]
        if "c" in item.get("readers", ("c",))
    ]


def bare_items() -> list[Any]:
    """CBOR vectors but for those on size alone: in C the envelope has the limit, see the documents."""
    return [param for param in vectors("cbor") if param.values[0]["expect"] != "too_large"]


def device(folder: Path, context: dict[str, Any], *, trust: bytes | None, least: int = 1) -> Core:
    """A core that stands where the context says."""
    roots = tuple(bytes.fromhex(root) for root in context.get("roots", ())) or tuple(
        k.pub(name) for name in ("root", "root2", "root3")
    )
    identity = Ident(
        device_id=context.get("device_id", k.DEVICE),
        installation_id=bytes.fromhex(context.get("installation_id", k.INSTALLATION.hex())),
        class_id=bytes(16),
        roots=roots,
        root_threshold=context.get("root_threshold", 2),
        least_trust_version=least,
        mac_key=k.MAC_KEY,
        boot=1,
        slot_capacity=(4096,),
    )
    core = Core(folder / "flash.bin", identity, engine=ScriptedEngine(), port=Port())
    core.clock_set(1000, context.get("now") or 0)
    core.boot(Reset.POWER)
    if trust is not None:
        assert core.message(topics.TRUST, trust) == 0
    return core


def code(result: int) -> str:
    """The name of a core's answer."""
    return "ok" if result == 0 else next(name for name, number in CODES.items() if number == -result)


@pytest.mark.parametrize("vector", bare_items())
def test_cbor(vector: dict[str, Any]) -> None:
    refused = check_cbor(bytes.fromhex(vector["hex"]))
    assert (refused == 0) == (vector["expect"] == "ok")


@pytest.mark.parametrize("vector", vectors("manifest"))
def test_manifest(vector: dict[str, Any], tmp_path: Path) -> None:
    core = device(tmp_path, vector["context"], trust=bytes.fromhex(vector["context"]["trust"]))
    found, _, model = core.check_manifest(-1, bytes.fromhex(vector["hex"]))
    assert code(-found) == vector["expect"]
    if model is not None:
        assert model.id == hashlib.sha256(bytes.fromhex(vector["hex"])).digest()


@pytest.mark.parametrize("vector", vectors("trust"))
def test_trust(vector: dict[str, Any], tmp_path: Path) -> None:
    core = device(tmp_path, vector["context"], trust=None, least=vector["context"]["min_version"])
    assert code(core.message(topics.TRUST, bytes.fromhex(vector["hex"]))) == vector["expect"]
    assert (core.state().trust_version > 0) == (vector["expect"] == "ok")


def reach_counter(core: Core, context: dict[str, Any]) -> None:
    """Have the core accept a document with the context's last counter, where the online key still may."""
    last = context["last_counter"]
    if not last:
        return
    version = core.state().trust_version
    document = Desired(context["device_id"], last, version, issued=1)
    message = sign_desired(
        document, k.KEYS["online"], installation_id=bytes.fromhex(context["installation_id"])
    )
    assert core.message(context["topic"], message) in (0, -CODES["signature"])


@pytest.mark.parametrize("vector", vectors("desired"))
def test_desired(vector: dict[str, Any], tmp_path: Path) -> None:
    context = vector["context"]
    core = device(tmp_path, context, trust=bytes.fromhex(context["trust"]))
    reach_counter(core, context)
    before = core.state()
    assert code(core.message(context["topic"], bytes.fromhex(vector["hex"]))) == vector["expect"]
    after = core.state()
    if vector["expect"] == "ok":
        assert after.desired_counter > before.desired_counter
        assert list(after.config.invalid) == vector.get("config_invalid", [])
    else:
        assert after.desired_counter == before.desired_counter
        assert after.config == before.config


@pytest.mark.parametrize("vector", vectors("cmd"))
def test_command(vector: dict[str, Any], tmp_path: Path) -> None:
    context = vector["context"]
    core = device(tmp_path, context, trust=bytes.fromhex(context["trust"]))
    if vector["name"].endswith("the last counter again"):
        first = next(
            v for v in json.loads((FOLDER / "cmd.json").read_text())["vectors"] if v["expect"] == "ok"
        )
        assert core.message(context["topic"], bytes.fromhex(first["hex"])) == 0
    assert code(core.message(context["topic"], bytes.fromhex(vector["hex"]))) == vector["expect"]


LEAVES = json.loads((FOLDER / "leaves.json").read_text())


@pytest.mark.parametrize("case", LEAVES["maps"], ids=lambda case: f"{case['size']}+{case['blob_size']}")
def test_chunks_and_leaves(case: dict[str, Any], tmp_path: Path) -> None:
    """The C core pulls exactly these chunks and accepts exactly this leaf list."""
    model, blob = pattern(LEAVES["seed"], case["size"]), pattern(LEAVES["blob_seed"], case["blob_size"])
    golden = GoldenBlob(len(blob), hashlib.sha256(blob).digest(), 1, 0) if blob else None
    changes: dict[str, Any] = {"golden": golden} if golden else {}
    item = artifact(
        data=model, blob=blob, leaves_sha256=bytes.fromhex(case["leaves_sha256"]), manifest_changes=changes
    )
    rig = Rig(tmp_path, identity=ident(slot_capacity=(case["total"] * 4096,)))
    rig.start()
    rig.give_trust()
    rig.stage(item)
    rig.port.retained[topics.leaves(item.mid)] = bytes.fromhex(case["leaves"])
    rig.want(DesiredEntry(Action.RUN, item.id, attempt=1))
    slot = rig.slot()
    assert (slot.have, slot.total) == (case["total"], case["total"])
    # The blob is noise here: its digest is right, its content no golden vector.
    assert (slot.state, slot.code) == ((State.REFUSED, CODES["schema"]) if blob else (State.TRIAL, 0))


def test_codes_are_the_same_in_c_python_and_the_vectors() -> None:
    text = (build.CORE_DIR / "include" / "fleet_core" / "codes.h").read_text()
    in_c = {name.lower(): int(number) for name, number in re.findall(r"X\(([A-Z_]+), (\d+)\)", text)}
    assert in_c == {name: number for name, number in CODES.items() if number}
    shared = json.loads((FOLDER / "codes.json").read_text())
    assert shared["refusal"] == CODES
    assert shared["state"] == {state.name.lower(): state.value for state in State}
    assert shared["phase"] == {phase.name.lower(): phase.value for phase in Phase}
    assert shared["reset"] == {reason.name.lower(): reason.value for reason in Reset}
