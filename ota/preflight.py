"""One verdict per model and device class: pass, refuse with a code, or unproven and what is missing.

Nothing here runs a model or touches a database. What no device can have (`Examination.reasons`) comes first,
then what this class cannot have: operators its firmware does not link, an arena or slot it does not own,
firmware too old. A missing proof never passes: it is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fleet.devices.default_classes import DEFAULT_CLASSES
from ota.inspector import Inspection, Layer, Reason
from ota.operators import operator_name
from ota.probe import ProbeResult

TAIL_RATIO: Final = 0.75
"""Device tail / host tail: 32-bit structures against 64-bit ones; fitted on two field logs (see
`predict_arena`)."""
HEADROOM: Final = 1.1
"""What is signed for an arena that was only predicted."""
ESP_NN_KNOWN: Final = "1.2.3"
"""The esp-nn version whose scratch formula `conv_scratch_s3` is."""
CHUNK_BYTES: Final = 4096
MISSING_TEXTS: Final[dict[str, str]] = {
    "probe": "the model was not run: this machine has no TFLM (its wheel exists for x86-64 Linux only)",
    "evaluation_set": "no evaluation set (.npz with x and y): nothing shows that the model is still accurate",
    "declared_accuracy": "no declared accuracy, and the measured one is no better than one constant answer",
    "operator_list": "the class has no operator list: nothing shows that its firmware links these operators",
    "device_arena": "no device of this chip has measured the arena; the prediction is no upper bound here",
}
"""What `missing` names, in words."""
_CONV_2D, _DEPTHWISE, _INT8 = 3, 4, 9


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """A device class as preflight sees it.

    arena_bytes: what a model may use; slot_bytes: capacity for model + golden blob. operators and
    custom_operators: what the firmware links, both empty when unknown. esp_nn_version: empty on a host.
    simulated: virtual devices.
    """

    name: str
    chip: str
    arena_bytes: int
    slot_bytes: int
    operators: frozenset[int]
    custom_operators: frozenset[str] = frozenset()
    firmware_version: tuple[int, int, int] = (1, 0, 0)
    esp_nn_version: str = ""
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class ArenaEstimate:
    """What a model's arena is expected to need on a chip, in bytes.

    basis: `host` (measured, virtual devices), `s3` (predicted with esp-nn scratch) or `no_scratch` (predicted
    without, so no upper bound). signed_bytes goes into manifest key 10: a prediction gets 10 % on top.
    """

    expected_bytes: int
    signed_bytes: int
    basis: str

    @property
    def is_measured(self) -> bool:
        """True when the figure was measured on what will run it."""
        return self.basis == "host"


@dataclass(frozen=True, slots=True)
class Verdict:
    """kind: `pass`, `refuse` (reasons, gravest first) or `unproven` (missing: names of MISSING_TEXTS)."""

    class_name: str
    kind: str
    reasons: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    arena: ArenaEstimate | None = None
    notes: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """Code of the gravest reason; empty unless refused."""
        return self.reasons[0].code if self.reasons else ""

    @property
    def text(self) -> str:
        """What was found, in a sentence or several; empty for a pass."""
        parts = [reason.text for reason in self.reasons] or [MISSING_TEXTS[name] for name in self.missing]
        return "; ".join(parts)

    @property
    def fix(self) -> str:
        """What to do about it; may be empty."""
        return "; ".join(dict.fromkeys(reason.fix for reason in self.reasons if reason.fix))

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return {
            "class": self.class_name,
            "verdict": self.kind,
            "code": self.code,
            "text": self.text,
            "fix": self.fix,
            "reasons": [{"code": each.code, "text": each.text, "fix": each.fix} for each in self.reasons],
            "missing": list(self.missing),
            "arena_bytes": self.arena.signed_bytes if self.arena else None,
            "arena_expected_bytes": self.arena.expected_bytes if self.arena else None,
            "arena_basis": self.arena.basis if self.arena else None,
            "notes": list(self.notes),
        }


def preflight(
    inspection: Inspection,
    probe: ProbeResult | None,
    spec: ClassSpec,
    *,
    reasons: Sequence[Reason] = (),
    missing: Sequence[str] = (),
    golden_bytes: int = 0,
    least_firmware: tuple[int, int, int] = (0, 0, 0),
) -> Verdict:
    """Judge one model for one device class.

    probe: None when the model was not run. reasons, missing: those of the Examination. golden_bytes: size of
    the golden blob stored after the model, 0 when it is inline. least_firmware: manifest key 11. Codes: those
    in `reasons`, `op_missing`, `too_large`, `arena_too_small`, `firmware_too_old`.
    """
    found = [*reasons]
    lacking = [*missing]
    arena = None
    if not reasons:
        found += _operators(inspection, spec)
        found += _slot(inspection, spec, golden_bytes)
        if probe is not None:
            arena = predict_arena(inspection, probe, spec)
            found += _arena(arena, spec)
        found += _firmware(spec, least_firmware)
        if not spec.operators and not spec.custom_operators:
            lacking.append("operator_list")
        if arena is not None and arena.basis == "no_scratch":
            lacking.append("device_arena")
    notes = ("simulated: no figure here is an ESP32's",) if spec.simulated else ()
    if found:
        return Verdict(spec.name, "refuse", tuple(found), (), arena, notes)
    kind = "unproven" if lacking else "pass"
    return Verdict(spec.name, kind, (), tuple(dict.fromkeys(lacking)), arena, notes)


def predict_arena(inspection: Inspection, probe: ProbeResult, spec: ClassSpec) -> ArenaEstimate:
    """The arena a model needs on a class's chip, from what the host recorded.

    host: the bisected minimum itself. ESP32-S3 with the known esp-nn: head + largest convolution scratch +
    0.75 tail, an upper estimate (2.5 % and 3.4 % above two field reports, esphome/issues #7242 and
    m5stack/esphome-yaml #68; the 0.75 is fitted on them). Everything else: head + 0.75 tail, without the
    scratch term and so no bound; so is an S3 model with depthwise convolutions, whose scratch is not
    modelled.
    """
    if spec.chip == "host":
        return ArenaEstimate(probe.arena_min_bytes, probe.arena_min_bytes, "host")
    base = probe.arena_head_bytes + int(TAIL_RATIO * probe.arena_tail_bytes)
    is_modelled = (
        spec.chip == "esp32s3"
        and spec.esp_nn_version == ESP_NN_KNOWN
        and not any(layer.builtin == _DEPTHWISE for layer in inspection.layers)
    )
    if spec.chip == "esp32s3":
        base += max((conv_scratch_s3(layer) for layer in inspection.layers), default=0)
    return ArenaEstimate(base, _round_up(int(base * HEADROOM)), "s3" if is_modelled else "no_scratch")


def conv_scratch_s3(layer: Layer) -> int:
    """Scratch bytes esp-nn 1.2.3 asks for one int8 CONV_2D on an ESP32-S3; 0 for every other layer.

    Source: esp_nn_get_conv_scratch_size_esp32s3 in espressif/esp-nn, src/convolution/esp_nn_conv_esp32s3.c.
    """
    window = layer.window
    if layer.builtin != _CONV_2D or layer.input_dtype != _INT8 or window is None:
        return 0
    if not len(layer.input_shape) == len(layer.weights_shape) == len(layer.output_shape) == 4:
        return 0
    _, ih, iw, ic = layer.input_shape
    oc, fh, fw, _ = layer.weights_shape
    _, oh, ow, _ = layer.output_shape
    sw, sh = window.stride_w, window.stride_h
    same = window.padding == 0
    pw = max(0, (ow - 1) * sw + fw - iw) // 2 if same else 0
    ph = max(0, (oh - 1) * sh + fh - ih) // 2 if same else 0
    if fw == fh == sw == sh == 1 and pw == ph == 0:
        c8 = _round_up(ic, 8)
        return (iw * ih * c8 if ic % 8 else 0) + c8 * oc + (16 * c8 if iw * ih >= 8 else 0) + 64
    if fw * ic < 16 <= fw * fh * ic:
        return 4 * oc + (oc + 1) * _round_up(fw * fh * ic) + 96
    pr = max(0, ow * sw + fw - 1 - iw)
    pb = max(0, oh * sh + fh - 1 - ih)
    padded = (iw + 2 * pw) * (ih + 2 * ph) * ic if pw or ph else 0
    border = (iw + pr) * (ih + pb) * ic if pr or pb else 0
    return padded + fw * fh * _round_up(ic) * oc + _round_up(fw * ic) * fh * oc + border + 64 + 4 * oc


def _round_up(value: int, step: int = 16) -> int:
    return -(-value // step) * step


def _operators(inspection: Inspection, spec: ClassSpec) -> list[Reason]:
    if not spec.operators and not spec.custom_operators:
        return []
    absent = [operator_name(code) for code in sorted(inspection.builtin_operators - spec.operators)]
    absent += sorted(inspection.custom_operators - spec.custom_operators)
    if not absent:
        return []
    return [
        Reason(
            "op_missing",
            f"the firmware of class {spec.name} does not link {', '.join(absent)}",
            "give the class a firmware that links them, or export the model without them",
        )
    ]


def _slot(inspection: Inspection, spec: ClassSpec, golden_bytes: int) -> list[Reason]:
    chunks = -(-inspection.size // CHUNK_BYTES) + -(-golden_bytes // CHUNK_BYTES)
    needed = inspection.size if not golden_bytes else chunks * CHUNK_BYTES
    if needed <= spec.slot_bytes:
        return []
    what = f"the model is {inspection.size:,} bytes"
    if golden_bytes:
        what += f" ({needed:,} with its golden vectors)"
    return [
        Reason(
            "too_large",
            f"{what}, a slot of class {spec.name} holds {spec.slot_bytes:,}",
            "make the model smaller, or use a class with a larger slot",
        )
    ]


def _arena(arena: ArenaEstimate, spec: ClassSpec) -> list[Reason]:
    if arena.signed_bytes <= spec.arena_bytes:
        return []
    how = (
        "needs" if arena.is_measured else f"is predicted to need {arena.expected_bytes:,}: with 10 % in hand"
    )
    return [
        Reason(
            "arena_too_small",
            f"the model {how} {arena.signed_bytes:,} bytes of arena; class {spec.name} has "
            f"{spec.arena_bytes:,}",
            "shrink the largest activation, or use a class with more memory",
        )
    ]


def _firmware(spec: ClassSpec, least: tuple[int, int, int]) -> list[Reason]:
    if spec.firmware_version >= least:
        return []
    have, need = (".".join(map(str, version)) for version in (spec.firmware_version, least))
    return [
        Reason(
            "firmware_too_old",
            f"class {spec.name} runs firmware {have}, the model needs {need}",
            "update it first",
        )
    ]


BUILTIN_CLASSES: Final[dict[str, ClassSpec]] = {
    one.name: ClassSpec(
        one.name,
        one.chip,
        one.arena_bytes,
        one.slot_bytes[0],
        frozenset(one.operators),
        esp_nn_version=one.esp_nn_version,
        simulated=one.chip == "host",
    )
    for one in DEFAULT_CLASSES
}
"""Classes `manage.py inspect --class` knows without a database: those that every installation starts with.

Slot 0 counts. The chip ones are planning figures, not boards."""
