"""Preflight: one verdict per class, with every reason, and the arena prediction behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ota.inspector import Inspection, Layer, Reason, inspect
from ota.operators import CUSTOM, TFLM_BUILTINS, codes
from ota.preflight import (
    BUILTIN_CLASSES,
    MISSING_TEXTS,
    ClassSpec,
    conv_scratch_s3,
    predict_arena,
    preflight,
)
from ota.probe import ProbeResult
from ota.tflite import Window
from tests.ota import tflite_files as files

ACTIVITY = Path(__file__).parents[2] / "deploy/models/activity-v1.tflite"
HOST = ClassSpec("bench", "host", 8192, 65_536, codes("FULLY_CONNECTED CONV_2D"), simulated=True)
MODEL = inspect(files.classifier())


def ran(*, head: int = 1000, tail: int = 2000, least: int = 3200) -> ProbeResult:
    """What a probe might have found."""
    return ProbeResult(head, tail, least, True, 8, 100, 0.2)


def conv(ic: int, oc: int, size: int, kernel: int, *, padding: int = 0, stride: int = 1) -> Layer:
    """One int8 CONV_2D over a square image."""
    out = -(-size // stride) if padding == 0 else (size - kernel) // stride + 1
    window = Window(padding, stride, stride)
    shapes = ((1, size, size, ic), (oc, kernel, kernel, ic), (1, out, out, oc))
    return Layer(0, 0, "CONV_2D", 3, 0, 9, *shapes, window)


def test_a_model_with_all_proofs_passes() -> None:
    verdict = preflight(MODEL, ran(), HOST)
    assert (verdict.kind, verdict.code, verdict.reasons, verdict.missing) == ("pass", "", (), ())
    assert verdict.arena is not None
    assert (verdict.arena.signed_bytes, verdict.arena.is_measured) == (3200, True)
    assert verdict.notes == ("simulated: no figure here is an ESP32's",)
    json.dumps(verdict.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"operators": codes("SOFTMAX")}, "op_missing", "FULLY_CONNECTED"),
        ({"slot_bytes": MODEL.size - 1}, "too_large", f"{MODEL.size - 1:,}"),
        ({"arena_bytes": 3199}, "arena_too_small", "3,200"),
        ({"firmware_version": (1, 1, 9)}, "firmware_too_old", "1.1.9"),
    ],
)
def test_what_a_class_lacks_is_a_refusal_with_its_code(change: dict[str, Any], code: str, words: str) -> None:
    least = (1, 2, 0)
    fresh = replace(HOST, firmware_version=least)
    assert preflight(MODEL, ran(), fresh, least_firmware=least).kind == "pass"
    verdict = preflight(MODEL, ran(), replace(fresh, **change), least_firmware=least)
    assert (verdict.kind, verdict.code) == ("refuse", code)
    assert words in verdict.text
    assert HOST.name in verdict.text
    assert verdict.fix


def test_the_exact_limit_still_fits() -> None:
    tight = replace(HOST, slot_bytes=MODEL.size, arena_bytes=3200)
    assert preflight(MODEL, ran(), tight).kind == "pass"


def test_a_golden_blob_takes_whole_chunks_of_the_slot() -> None:
    # 832 bytes of model take one chunk, 5,000 of blob two more.
    assert preflight(MODEL, ran(), replace(HOST, slot_bytes=12_288), golden_bytes=5000).kind == "pass"
    assert preflight(MODEL, ran(), replace(HOST, slot_bytes=12_287), golden_bytes=5000).code == "too_large"


def test_all_reasons_are_listed() -> None:
    poor = replace(HOST, operators=codes("SOFTMAX"), slot_bytes=1, arena_bytes=1)
    verdict = preflight(MODEL, ran(), poor, missing=("evaluation_set",))
    assert [reason.code for reason in verdict.reasons] == ["op_missing", "too_large", "arena_too_small"]
    assert verdict.missing == ()
    assert verdict.kind == "refuse"


def test_a_refused_model_is_refused_for_every_class_with_its_own_reason() -> None:
    reason = Reason("probe_crash", "TFLM crashed", "export again")
    for spec in BUILTIN_CLASSES.values():
        verdict = preflight(MODEL, None, spec, reasons=(reason,))
        assert (verdict.kind, verdict.reasons) == ("refuse", (reason,))


def test_custom_operators_are_compared_by_name() -> None:
    model = inspect(files.custom("SignalWindow"))
    having = replace(HOST, custom_operators=frozenset({"SignalWindow"}))
    assert preflight(model, ran(), having).kind == "pass"
    verdict = preflight(model, ran(), replace(HOST, operators=TFLM_BUILTINS | {CUSTOM}))
    assert verdict.code == "op_missing"
    assert "SignalWindow" in verdict.text


def test_missing_proof_is_unproven_and_named() -> None:
    verdict = preflight(MODEL, ran(), HOST, missing=("evaluation_set",))
    assert (verdict.kind, verdict.code, verdict.missing) == ("unproven", "", ("evaluation_set",))
    assert verdict.text == MISSING_TEXTS["evaluation_set"]
    assert preflight(MODEL, ran(), replace(HOST, operators=frozenset())).missing == ("operator_list",)
    assert preflight(MODEL, None, HOST, missing=("probe",)).kind == "unproven"


def test_the_scratch_of_each_case_of_esp_nn() -> None:
    # 1x1: 8 channels need no copy of the input; 6 are padded to 8.
    assert conv_scratch_s3(conv(8, 16, 4, 1)) == 0 + 8 * 16 + 16 * 8 + 64
    assert conv_scratch_s3(conv(6, 16, 4, 1)) == 4 * 4 * 8 + 8 * 16 + 16 * 8 + 64
    assert conv_scratch_s3(conv(8, 16, 2, 1)) == 8 * 16 + 64  # fewer than 8 positions: no transposition
    # im2col: a filter row below 16 bytes, the whole window 16 or more.
    assert conv_scratch_s3(conv(2, 10, 8, 3)) == 4 * 10 + 11 * 32 + 96
    # general, SAME: padded input, two filter copies, right and bottom border.
    assert (
        conv_scratch_s3(conv(8, 16, 10, 3)) == 12 * 12 * 8 + 9 * 16 * 16 + 32 * 3 * 16 + 12 * 12 * 8 + 64 + 64
    )
    # general, VALID: no padded copy, output 8 wide reaches exactly to the border of 10.
    assert conv_scratch_s3(conv(8, 16, 10, 3, padding=1)) == 9 * 16 * 16 + 32 * 3 * 16 + 64 + 64
    # a 1x1 filter with stride 2 is the general case.
    assert conv_scratch_s3(conv(16, 8, 8, 1, stride=2)) == 16 * 8 + 16 * 8 + 64 + 32


def test_float_and_other_layers_have_no_scratch() -> None:
    layer = conv(8, 16, 10, 3)
    assert conv_scratch_s3(replace(layer, input_dtype=0)) == 0
    assert conv_scratch_s3(replace(layer, builtin=4)) == 0
    assert conv_scratch_s3(replace(layer, input_shape=(10, 8))) == 0


def with_layers(*layers: Layer) -> Inspection:
    return replace(MODEL, layers=layers)


def test_the_s3_prediction_adds_the_largest_scratch() -> None:
    small, large = conv(8, 16, 4, 1), conv(8, 16, 10, 3)
    spec = replace(HOST, chip="esp32s3", esp_nn_version="1.2.3", arena_bytes=100_000)
    arena = predict_arena(with_layers(small, large), ran(head=3424, tail=16_384), spec)
    assert arena.basis == "s3"
    assert arena.expected_bytes == 3424 + 12_288 + conv_scratch_s3(large)
    assert 1.1 * arena.expected_bytes - 1 <= arena.signed_bytes < 1.1 * arena.expected_bytes + 16
    assert preflight(with_layers(small, large), ran(), spec).kind == "pass"


def test_a_field_failure_is_foreseen() -> None:
    """esphome #15603: an arena declared as measured before esp-nn asked for scratch memory.

    Head and tail are hey_jarvis's, 22,860 is what was declared; the layer stands for its largest convolution.
    """
    layer = conv(16, 44, 20, 3, padding=1)
    scratch = conv_scratch_s3(layer)
    assert scratch == 9 * 16 * 44 + 48 * 3 * 44 + 64 + 4 * 44
    spec = replace(HOST, name="s3", chip="esp32s3", esp_nn_version="1.2.3", arena_bytes=22_860)
    found = ran(head=3424, tail=16_384, least=19_824)
    assert preflight(with_layers(layer), found, spec).code == "arena_too_small"
    assert preflight(with_layers(), found, spec).kind == "pass"
    text = preflight(with_layers(layer), found, spec).text
    assert f"{3424 + 12_288 + scratch:,}" in text
    assert "22,860" in text


@pytest.mark.parametrize(
    "spec",
    [
        replace(HOST, chip="esp32", esp_nn_version="1.2.3"),
        replace(HOST, chip="esp32c3", esp_nn_version="1.2.3"),
        replace(HOST, chip="esp32s3", esp_nn_version="1.3.0"),
        replace(HOST, chip="esp32s3", esp_nn_version=""),
        replace(HOST, chip="something new"),
    ],
)
def test_without_a_scratch_formula_a_device_must_measure(spec: ClassSpec) -> None:
    verdict = preflight(MODEL, ran(), spec)
    assert (verdict.kind, verdict.missing) == ("unproven", ("device_arena",))
    assert verdict.arena is not None
    assert verdict.arena.expected_bytes == 1000 + 1500
    assert verdict.arena.basis == "no_scratch"


def test_depthwise_on_s3_is_no_bound_either() -> None:
    layer = replace(conv(8, 8, 10, 3), builtin=4, name="DEPTHWISE_CONV_2D")
    spec = replace(HOST, chip="esp32s3", esp_nn_version="1.2.3")
    assert predict_arena(with_layers(layer), ran(), spec).basis == "no_scratch"


def test_the_activity_model_needs_what_host_b_links() -> None:
    found = inspect(ACTIVITY.read_bytes())
    for name in ("host-a", "host-b", "esp32s3-8m"):
        assert found.builtin_operators <= BUILTIN_CLASSES[name].operators, name
    assert not codes("ADD_N") & BUILTIN_CLASSES["host-b"].operators
    assert codes("ADD_N") <= BUILTIN_CLASSES["host-a"].operators
    assert all(spec.operators <= TFLM_BUILTINS for spec in BUILTIN_CLASSES.values())
    assert all(spec.simulated == (spec.chip == "host") for spec in BUILTIN_CLASSES.values())
