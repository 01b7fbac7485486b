"""Modules shared with virtual devices and the command line are bare Python: no Django, no Celery, no TFLM."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BARE = [
    "fleet.cli.main",
    "fleet.client",
    "fleet.devices.query",
    "fleet.devices.query_terms",
    "fleet.devices.records",
    "fleet.devices.version_order",
    "fleet.mqtt.codec.cbor",
    "fleet.mqtt.codec.classes",
    "fleet.mqtt.codec.cose",
    "fleet.mqtt.codec.envelope",
    "fleet.mqtt.codec.event",
    "fleet.mqtt.codec.json_windows",
    "fleet.mqtt.codec.names",
    "fleet.mqtt.codec.quick_windows",
    "fleet.mqtt.codec.records",
    "fleet.mqtt.codec.reported",
    "fleet.mqtt.codec.shape",
    "fleet.mqtt.codec.sketch",
    "fleet.mqtt.codec.telemetry",
    "fleet.mqtt.topics",
    "ota.chunking",
    "ota.config_ranges",
    "ota.desired",
    "ota.documents",
    "ota.hints",
    "ota.manifest",
    "ota.signing",
    "ota.tensors",
    "ota.trust",
    "ota.inspector",
]
FORBIDDEN = ["django", "celery", "tflite_micro"]


@pytest.mark.parametrize("module", BARE)
def test_a_bare_module_loads_nothing_heavy_in_a_fresh_interpreter(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({FORBIDDEN!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_codec_module_is_on_the_list() -> None:
    found = {f"fleet.mqtt.codec.{path.stem}" for path in (ROOT / "fleet/mqtt/codec").glob("[a-z]*.py")}
    assert found - {"fleet.mqtt.codec.errors"} <= set(BARE)


@pytest.mark.parametrize("package", ["fleet", "fleet.mqtt", "ota"])
def test_package_inits_that_escape_the_linter_stay_empty(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).read_text() == ""
