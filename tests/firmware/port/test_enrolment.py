"""Enrolment's JSON and the class description, as the board's portable C does them, under ASan and UBSan."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_firmware.host import build
from fleet.devices.default_classes import DEFAULT_CLASSES
from fleet.mqtt.codec.classes import ClassDescription, encode_operators
from fleet.mqtt.codec.names import Chip
from tests.firmware.port import kconfig, partitions

HERE = Path(__file__).parent
MAIN = build.FIRMWARE_DIR / "main"
TICKET = {
    "device_id": "bench-7",
    "token": "a-b_c",
    "class": "esp32c3-4m",
    "url": "https://fleet.example:8443",
}
ANSWER: dict[str, Any] = {
    "device_id": "bench-7",
    "installation_id": "00" * 15 + "ff",
    "broker": {
        "host": "broker.example",
        "port": 8883,
        "ca_pem": "-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n",
        "username": "bench-7",
        "password": "5e" * 32,
    },
    "mac_key": "ab" * 32,
    "roots": ["01" * 32, "02" * 32, "03" * 32],
    "root_threshold": 2,
    "least_trust_version": 3,
    "class_id": "cd" * 16,
    "class": {
        "arena_bytes": 102_400,
        "slot_bytes": [385_024, 57_344],
        "operators": [3, [32, "Mine"]],
        "esp_nn_version": "1.2.3",
    },
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """enrol.c with the shipped files."""
    target = tmp_path_factory.mktemp("enrol") / "enrol"
    sources = [str(HERE / "enrol.c"), str(MAIN / "enrol_json.c"), str(MAIN / "class_id.c")]
    flags = [*build.STRICT, *build.SANITIZE, "-g", "-O1", f"-I{MAIN}", *build.includes()]
    build.run_compiler([build.compiler(), *flags, *sources, "-o", str(target)])
    return target


def understood(program: Path, what: str, text: bytes) -> dict[str, str] | None:
    """The fields, None when it was refused."""
    done = subprocess.run([program, what], input=text, capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr.decode()[-2000:]
    if done.returncode:
        return None
    lines = done.stdout.decode("ascii").split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def answer(**changes: Any) -> bytes:
    """The answer with some members changed; None leaves one out."""
    changed = {key: value for key, value in (ANSWER | changes).items() if value is not None}
    return json.dumps(changed).encode()


@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_is_understood(program: Path, indent: int | None) -> None:
    found = understood(program, "answer", json.dumps(ANSWER, indent=indent).encode())
    assert found is not None
    assert bytes.fromhex(found.pop("ca")).decode() == ANSWER["broker"]["ca_pem"]
    assert found == {
        "device_id": "bench-7",
        "host": "broker.example",
        "port": "8883",
        "user": "bench-7",
        "secret": "5e" * 32,
        "least": "3",
        "arena": "102400",
        "threshold": "2",
        "installation": "00" * 15 + "ff",
        "class": "cd" * 16,
        "mac": "ab" * 32,
        "roots": "".join(ANSWER["roots"]),
    }


BAD = {
    "no mac key": answer(mac_key=None),
    "half a mac key": answer(mac_key="ab" * 31),
    "a mac key in capitals": answer(mac_key="AB" * 32),
    "no root": answer(roots=[]),
    "five roots": answer(roots=["01" * 32] * 5),
    "a threshold above the roots": answer(root_threshold=4),
    "a threshold of none": answer(root_threshold=0),
    "a device id with a slash": answer(device_id="bench/7"),
    "a device id of 33": answer(device_id="b" * 33),
    "a port of 65,536": answer(broker=ANSWER["broker"] | {"port": 65_536}),
    "a port as text": answer(broker=ANSWER["broker"] | {"port": "8883"}),
    "a negative port": answer(broker=ANSWER["broker"] | {"port": -1}),
    "a certificate of 4 KiB": answer(broker=ANSWER["broker"] | {"ca_pem": "x" * 4096}),
    "a zero in the host": answer(broker=ANSWER["broker"] | {"host": "a\0b"}),
    "no broker": answer(broker=None),
    "a list": b"[1,2]",
    "nothing": b"",
    "too deep": answer(broker=json.loads("[" * 9 + "]" * 9)),
}


@pytest.mark.parametrize("what", BAD)
def test_an_answer_that_is_not_one_is_refused(what: str, program: Path) -> None:
    assert understood(program, "answer", BAD[what]) is None


def test_no_truncated_answer_is_understood(program: Path) -> None:
    whole = answer()
    assert not [n for n in range(0, len(whole), 23) if understood(program, "answer", whole[:n])]


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 900), junk=st.binary(min_size=1, max_size=6))
def test_no_changed_answer_confuses_the_reader(at: int, junk: bytes, program: Path) -> None:
    whole = answer()
    understood(program, "answer", whole[:at] + junk + whole[at + len(junk) :])


def test_a_ticket_becomes_the_request_of_the_protocol(program: Path) -> None:
    found = understood(program, "ticket", json.dumps(TICKET).encode())
    assert found is not None
    assert found["url"] == TICKET["url"]
    assert json.loads(found["body"]) == {
        "token": "a-b_c",
        "device_id": "bench-7",
        "class": "esp32c3-4m",
        "chip": "esp32c3",
        "firmware": "1.0.0",
    }


@pytest.mark.parametrize("change", [{"url": "http://plain.example"}, {"token": 'a"b'}, {"device_id": "-x"}])
def test_a_ticket_that_is_unsafe_is_refused(change: dict[str, str], program: Path) -> None:
    assert understood(program, "ticket", json.dumps(TICKET | change).encode()) is None


@pytest.mark.parametrize(
    ("name", "target", "table"),
    [
        ("esp32-4m", "esp32", "partitions.csv"),
        ("esp32c3-4m", "esp32c3", "partitions.csv"),
        ("esp32s3-8m", "esp32s3", "partitions_8mb.csv"),
    ],
)
def test_a_board_built_with_the_defaults_is_of_the_class_that_the_backend_has(
    name: str, target: str, table: str, program: Path
) -> None:
    """Kconfig, sdkconfig.defaults and the partition table on one side, the backend's table on the other."""
    described = next(one for one in DEFAULT_CLASSES if one.name == name)
    values = kconfig.settings(target)
    assert kconfig.defaults_file(target)["PARTITION_TABLE_CUSTOM_FILENAME"].strip('"') == table
    banks = [str(size) for size in partitions.banks(table)]
    operators = kconfig.operators(target)
    version = values["TINYFLEET_ESP_NN_VERSION"].strip('"')
    chip = {"esp32": 1, "esp32s3": 3, "esp32c3": 4}[target]
    done = subprocess.run(
        [program, "class", name, version, str(chip), values["TINYFLEET_ARENA_BYTES"], *banks],
        input=cbor2.dumps(encode_operators(operators)),
        capture_output=True,
        check=True,
        timeout=60,
    )
    ours = bytes.fromhex(done.stdout.decode().strip().removeprefix("class="))
    theirs = ClassDescription(
        described.name,
        Chip(chip),
        described.arena_bytes,
        described.slot_bytes,
        described.operators,
        described.esp_nn_version,
    )
    assert ours == theirs.encode()
    assert int(values["TINYFLEET_SLOTS"]) == len(described.slot_bytes)
