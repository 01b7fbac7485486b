"""The core on rv32imc pulls the chunks of every shared chunk map and accepts exactly its leaf list."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from device_firmware.host.core import CODES, State
from device_firmware.host.rv32.bench import Script, Verb
from fleet.mqtt import topics
from ota.tensors import GoldenBlob
from tests.firmware import artifacts
from tests.firmware.rv32 import stories
from tests.firmware.rv32.conftest import Run
from tests.firmware.rv32.documents import FOLDER
from tests.vectors.keys import pattern

pytestmark = pytest.mark.xdist_group("rv32")

LEAVES = json.loads((FOLDER / "leaves.json").read_text())
CASES = pytest.mark.parametrize(
    "case", LEAVES["maps"], ids=lambda case: f"{case['size']}+{case['blob_size']}"
)


def install(case: dict[str, Any], leaves: bytes) -> tuple[Script, int]:
    """A device with just enough room that is offered the map's model with this leaf list; its last answer."""
    model, blob = pattern(LEAVES["seed"], case["size"]), pattern(LEAVES["blob_seed"], case["blob_size"])
    golden = {"golden": GoldenBlob(len(blob), hashlib.sha256(blob).digest(), 1, 0)} if blob else {}
    item = artifacts.artifact(
        data=model,
        blob=blob,
        signers=(artifacts.RELEASE, artifacts.RELEASE2),
        leaves_sha256=bytes.fromhex(case["leaves_sha256"]),
        manifest_changes=golden,
    )
    script = stories.device(capacity=case["total"] * 4096)
    for topic, payload in (item.publications() | {topics.leaves(item.mid): leaves}).items():
        script.retain(topic, payload)
    script.link(True)
    script.drive(20)
    stories.want(script, item, 1)
    script.drive(200)
    return script, script.add(Verb.STATE)


@CASES
def test_the_leaf_list_and_every_chunk_fit(case: dict[str, Any], on_chip: Run) -> None:
    script, last = install(case, bytes.fromhex(case["leaves"]))
    state = on_chip(script)[last]
    assert (state.number("have"), state.number("total")) == (case["total"], case["total"])
    found = (state.number("state"), state.number("code"))
    # The blob is noise here: its digest is right, its content no golden vector.
    is_right = (State.REFUSED, CODES["schema"]) if case["blob_size"] else (State.CONFIRMED, 0)
    assert found == is_right


@CASES
def test_a_leaf_list_with_one_flipped_bit_is_refused(case: dict[str, Any], on_chip: Run) -> None:
    leaves = bytes.fromhex(case["leaves"])
    script, last = install(case, leaves[:-1] + bytes((leaves[-1] ^ 0x80,)))
    state = on_chip(script)[last]
    assert (state.number("state"), state.number("code")) == (State.REFUSED, CODES["leaf_list"])
    assert state.number("have") == 0
    assert state.number("loaded_bytes") == 0
