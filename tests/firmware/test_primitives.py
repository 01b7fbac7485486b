"""The host port's Ed25519, SHA-256 and HMAC give the shared known answers (ASan, UBSan)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from device_firmware.host import build
from tests.firmware import scenario

C_DIR = Path(__file__).parent / "c"
GOOD, BAD, DIGEST, MAC = 10, 11, 12, 13


def test_known_answers(tmp_path: Path) -> None:
    """RFC 8032, signatures with S at or above the group order, keys of small order, RFC 4231."""
    content = json.loads((scenario.VECTORS / "primitives.json").read_text())
    items: list[tuple[int, str, bytes]] = []
    for entry in content["ed25519"]:
        kind = GOOD if entry["expect"] == "ok" else BAD
        payload = bytes.fromhex(entry["public"] + entry["signature"] + entry["message"])
        items.append((kind, entry["name"], payload))
    for entry in content["sha256"]:
        items.append((DIGEST, entry["name"], bytes.fromhex(entry["digest"] + entry["message"])))
    for entry in content["hmac_sha256"]:
        items.append((MAC, entry["name"], bytes.fromhex(entry["tag"] + entry["key"] + entry["message"])))
    program = build.build_program(C_DIR / "answers.c", tmp_path / "answers", extra=[C_DIR / "bench.c"])
    done = subprocess.run(
        [str(program), str(scenario.write(tmp_path / "scenario", items)), str(tmp_path / "flash.bin")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{len(items)} known answers\n"
