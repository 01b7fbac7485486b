"""The shared vectors: committed files are what the generator makes, and Python agrees with each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.mqtt import topics
from fleet.mqtt.codec import cbor, envelope, names
from fleet.mqtt.codec.classes import ClassDescription, build_id, name_hash, opset_digest
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.event import encode_event, parse_event
from fleet.mqtt.codec.reported import encode_reported, parse_reported
from fleet.mqtt.codec.telemetry import encode_batch, parse_batch
from ota import chunking
from ota.config_ranges import config_errors
from ota.desired import verify_command, verify_desired
from ota.errors import OtaError
from ota.signing import KeyPair, verify_manifest
from ota.trust import TrustDocument, verify_trust
from tests.vectors import generate
from tests.vectors.keys import RFC8032_SEEDS, pattern

FOLDER = Path(generate.__file__).parent
DOCUMENTS = ["cbor", "classes", "manifest", "trust", "desired", "cmd", "reported", "telemetry", "event"]
RFC8032_PUBLIC = (
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
)
SIGNED_CODES = {code.label for code in names.RefusalCode}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    assert content["format"] == 1
    return content


def vectors() -> Iterator[Any]:
    for name in DOCUMENTS:
        content = load(name)
        for vector in content["vectors"]:
            merged = vector | {"context": content["context"] | vector.get("context", {})}
            yield pytest.param(merged, id=f"{name}: {vector['name']}")


def held_trust(context: dict[str, Any]) -> TrustDocument:
    return TrustDocument.parse(
        cbor.decode_strict(bytes.fromhex(context["trust"]), max_bytes=2048, may_tag=True).value[2]
    )


def accept(vector: dict[str, Any], message: bytes) -> Any:
    """Run the reader that the vector's kind has in the product."""
    context, kind = vector["context"], vector["kind"]
    if kind == "cbor":
        value = cbor.decode_strict(message, max_bytes=context["max_bytes"])
        assert cbor.encode(value) == message
        return value
    if kind == "class":
        described = ClassDescription.parse(message)
        assert described.encode() == message
        return described
    if kind == "manifest":
        return verify_manifest(message, held_trust(context), now_s=context["now"])
    if kind == "trust":
        roots = [bytes.fromhex(root) for root in context["roots"]]
        threshold, least = context["root_threshold"], context["min_version"]
        return verify_trust(message, roots=roots, threshold=threshold, min_version=least)
    installation = bytes.fromhex(context["installation_id"])
    if kind in ("desired", "cmd"):
        assert context["topic"] == topics.device(context["device_id"], kind)
        common = {
            "device_id": context["device_id"],
            "installation_id": installation,
            "trust": held_trust(context),
            "last_counter": context["last_counter"],
        }
        return (
            verify_desired(message, **common)
            if kind == "desired"
            else verify_command(message, now_s=context["now"], **common)
        )
    keys = envelope.keyring(*(bytes.fromhex(key) for key in context["mac_keys"]))
    payload = envelope.open_uplink(
        kind, message, topic=context["topic"], installation_id=installation, key_lookup=keys
    )
    parse, encode = {
        "reported": (parse_reported, encode_reported),
        "telemetry": (parse_batch, encode_batch),
        "event": (parse_event, encode_event),
    }[kind]
    document = parse(payload)
    assert encode(document) == payload, "what is read is written as the same bytes"
    return document


@pytest.mark.parametrize("vector", list(vectors()))
def test_python_gives_each_vector_its_code(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])
    if vector["expect"] == "ok":
        document = accept(vector, message)
        if "config_invalid" in vector:
            assert config_errors(document.config) == vector["config_invalid"]
        return
    with pytest.raises((CodecError, OtaError)) as refused:
        accept(vector, message)
    assert refused.value.code == vector["expect"], refused.value


@pytest.mark.parametrize("path", [path for path, _ in generate.files()], ids=lambda path: path.name)
def test_committed_vectors_are_what_the_generator_makes(path: Path) -> None:
    assert path.read_text() == dict(generate.files())[path]


def test_no_vector_file_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == {name for name, _ in generate.documents()}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_expected_codes_are_known_ones(name: str) -> None:
    known = {"ok", *SIGNED_CODES, *names.UPLINK_CODES}
    assert {vector["expect"] for vector in load(name)["vectors"]} <= known


def test_every_code_an_uplink_can_get_has_a_vector() -> None:
    seen = {
        vector["expect"] for name in ("reported", "telemetry", "event") for vector in load(name)["vectors"]
    }
    assert set(names.UPLINK_CODES) - seen == {"topic_bad"}, "topics are judged before there is a message"


def test_the_first_keys_are_those_of_rfc_8032() -> None:
    publics = tuple(KeyPair.from_seed(bytes.fromhex(seed)).public_key.hex() for seed in RFC8032_SEEDS)
    assert publics == RFC8032_PUBLIC


def test_chunk_maps_match() -> None:
    content = load("leaves")
    for entry in content["maps"]:
        data = pattern(content["seed"], entry["size"])
        blob = pattern(content["blob_seed"], entry["blob_size"])
        layout = chunking.Layout(len(data), len(blob))
        assert (layout.model_chunks, layout.total, layout.segments) == (
            entry["model_chunks"],
            entry["total"],
            entry["segments"],
        )
        assert chunking.leaves(data, blob).hex() == entry["leaves"]
        assert chunking.leaves_sha256(data, blob).hex() == entry["leaves_sha256"]
        assert chunking.chunk(data, blob, layout.total - 1) == list(chunking.chunks(data, blob))[-1]


def test_short_ids_match() -> None:
    vector = load("classes")["vectors"][0]
    described = ClassDescription.parse(bytes.fromhex(vector["hex"]))
    assert described.class_id.hex() == vector["class_id"]
    assert opset_digest(described.operators).hex() == vector["opset"]
    assert build_id("1.0.0", described.esp_nn, described.chip).hex() == vector["build_id"]
    assert name_hash(described.name).hex() == vector["name_hash"]
