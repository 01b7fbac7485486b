"""What a `.tflite` file says about itself, without running it.

`inspect` parses the file (`ota.tflite`), counts operators and multiply-accumulates, describes the input and
output contract and applies the static rules: models TFLM would load and then get wrong, or never load at all.
It needs no native code, so it works on every machine; the proof that a model runs is the sandboxed probe's
(`ota.probe`).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from ota import tflite
from ota.errors import OtaError
from ota.flatbuffer import FlatBufferError
from ota.operators import CUSTOM, TFLM_BUILTINS, TFLM_CUSTOM, codes, operator_name, substitute
from ota.tflite import Model, Node, Tensor, dtype_bytes, dtype_name

UPLOAD_MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest file that is looked at; the REST API refuses more before reading on."""
ROW_MAX_BYTES: Final = 65_536
"""Most bytes all inputs and outputs of one inference may have: a golden vector must fit a blob."""
MANIFEST_DTYPES: Final = frozenset({0, 1, 2, 3, 4, 6, 7, 9})
"""Tensor types a manifest can name (SPEC.md section 6)."""

_FLOATS: Final = frozenset({0, 1, 10, 18})
_SMALL_INTS: Final = frozenset({3, 9, 17, 19, 20})
_WEIGHTED: Final = codes(
    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED LSTM UNIDIRECTIONAL_SEQUENCE_LSTM SVDF TRANSPOSE_CONV "
    "BATCH_MATMUL"
)
_STATEFUL: Final = codes("SVDF UNIDIRECTIONAL_SEQUENCE_LSTM VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE")
_STATEFUL_CUSTOM: Final = frozenset(
    {"CIRCULAR_BUFFER", "SignalDelay", "SignalFramer", "SignalOverlapAdd"}
) | {
    "SignalStacker",
    "SignalFilterBankSpectralSubtraction",
}
_DEQUANTIZE, _READ_VARIABLE, _ASSIGN_VARIABLE, _VAR_HANDLE, _WHILE, _CALL_ONCE = 6, 143, 144, 142, 119, 129


class InspectionError(OtaError):
    """The file is not a model: `not_tflite`, `schema` (the text holds the field's path) or `too_large`."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is refused: a stable code, what was found, and what to do about it."""

    code: str
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One side of the input or output contract. scale is 0.0 when the tensor is not quantised per tensor."""

    name: str
    dtype: int
    dtype_name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def byte_size(self) -> int:
        """Bytes of the raw tensor; 0 for types without a fixed size."""
        return dtype_bytes(self.dtype, self.elements) or 0

    @property
    def scale_bits(self) -> int:
        """The scale's IEEE 754 single-precision bits, as manifest keys 13 and 14 carry it."""
        return int(struct.unpack("<I", struct.pack("<f", self.scale))[0])

    def manifest(self) -> list[Any]:
        """The `tensor` entry of a manifest: [dtype, shape, scale f32 bits, zero point]."""
        return [self.dtype, list(self.shape), self.scale_bits, self.zero_point]


@dataclass(frozen=True, slots=True)
class OperatorUse:
    """One kind of operator: how often it occurs and what it costs. custom is None for builtin operators."""

    name: str
    builtin: int
    custom: str | None
    count: int
    macs: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator with a cost or a geometry; weights_shape is empty when it has no weights."""

    subgraph: int
    index: int
    name: str
    builtin: int
    macs: int
    input_dtype: int
    input_shape: tuple[int, ...]
    weights_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    window: tflite.Window | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything the file says. macs: multiply-accumulates of one inference, loop bodies counted once.

    quantisation: `int8`, `int16x8`, `float32`, `hybrid`, `mixed` or `none`. refusals: static rules that no
    device can pass, in order of weight. notes: true and worth knowing, refusing nothing.
    """

    sha256: str
    size: int
    description: str
    operators: tuple[OperatorUse, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constant_bytes: int
    macs: int
    subgraphs: int
    tensors: int
    metadata: tuple[str, ...]
    resource_variables: tuple[str, ...]
    is_stateful: bool
    quantisation: str
    notes: tuple[str, ...]
    refusals: tuple[Reason, ...]

    @property
    def builtin_operators(self) -> frozenset[int]:
        """Builtin codes in use, without CUSTOM."""
        return frozenset(use.builtin for use in self.operators if use.custom is None)

    @property
    def custom_operators(self) -> frozenset[str]:
        """Names of custom operators in use."""
        return frozenset(use.custom for use in self.operators if use.custom is not None)

    def manifest_operators(self) -> list[int | list[Any]]:
        """Manifest key 12: builtin codes rising, then [32, name] by name."""
        custom: list[int | list[Any]] = [[CUSTOM, name] for name in sorted(self.custom_operators)]
        return [*sorted(self.builtin_operators), *custom]

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types, fields named as here; at most 512 layers are listed."""
        found = asdict(self)
        found["layers"] = found["layers"][:512]
        return found


def inspect(data: bytes) -> Inspection:
    """Read a model file's structure and apply the static rules.

    data: the whole file. Raises InspectionError: `too_large` above 16 MiB, `not_tflite` without the TFL3
    identifier, `schema` for anything a FlatBuffer reader or TFLM could trip over. Never raises anything else.
    """
    if len(data) > UPLOAD_MAX_BYTES:
        raise InspectionError(
            "too_large",
            f"the file is {len(data):,} bytes, at most {UPLOAD_MAX_BYTES:,} are accepted",
            "a microcontroller model has kilobytes: quantise it, or make it smaller",
        )
    if len(data) < 8 or data[4:8] != tflite.IDENTIFIER:
        raise InspectionError(
            "not_tflite",
            "the file has no TFL3 identifier, so it is no TensorFlow Lite model",
            "upload the .tflite file the converter wrote, not a SavedModel, .h5, .onnx or .zip",
        )
    try:
        model = tflite.read_model(data)
    except FlatBufferError as error:
        raise InspectionError(
            "schema", str(error), "the file is damaged or cut short: export it again and compare its SHA-256"
        ) from error
    return _describe(data, model)


def _describe(data: bytes, model: Model) -> Inspection:
    layers = tuple(_layers(model))
    operators = _operator_uses(model, layers)
    main = model.subgraphs[0]
    inputs = tuple(_spec(main.tensors[index]) for index in main.inputs)
    outputs = tuple(_spec(main.tensors[index]) for index in main.outputs)
    is_stateful = any(
        use.builtin in _STATEFUL or (use.custom or "") in _STATEFUL_CUSTOM for use in operators
    ) or any(tensor.is_variable for subgraph in model.subgraphs for tensor in subgraph.tensors)
    quantisation = _quantisation(layers, model, inputs)
    variables = {node.variable for subgraph in model.subgraphs for node in subgraph.nodes if node.variable}
    return Inspection(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        description=model.description,
        operators=operators,
        layers=layers,
        inputs=inputs,
        outputs=outputs,
        constant_bytes=model.constant_bytes,
        macs=sum(layer.macs for layer in layers),
        subgraphs=len(model.subgraphs),
        tensors=sum(len(subgraph.tensors) for subgraph in model.subgraphs),
        metadata=model.metadata,
        resource_variables=tuple(sorted(variables)),
        is_stateful=is_stateful,
        quantisation=quantisation,
        notes=tuple(_notes(operators, inputs, outputs, quantisation, is_stateful)),
        refusals=(
            *_missing(operators),
            *_hybrid(model),
            *_per_channel(model),
            *_unassigned(model),
            *_contract(inputs, outputs),
        ),
    )


def _spec(tensor: Tensor) -> TensorSpec:
    per_tensor = tensor.scale_count == 1
    return TensorSpec(
        tensor.name,
        tensor.dtype,
        dtype_name(tensor.dtype),
        tensor.shape,
        tensor.scale if per_tensor else 0.0,
        tensor.zero_point if per_tensor else 0,
    )


def _operator_uses(model: Model, layers: tuple[Layer, ...]) -> tuple[OperatorUse, ...]:
    counts = Counter((node.builtin, node.custom) for subgraph in model.subgraphs for node in subgraph.nodes)
    macs: Counter[int] = Counter()
    for layer in layers:
        macs[layer.builtin] += layer.macs
    return tuple(
        OperatorUse(operator_name(builtin, custom), builtin, custom, count, 0 if custom else macs[builtin])
        for (builtin, custom), count in sorted(
            counts.items(), key=lambda item: (item[0][0], item[0][1] or "")
        )
    )


def _layers(model: Model) -> Iterator[Layer]:
    for number, subgraph in enumerate(model.subgraphs):
        for index, node in enumerate(subgraph.nodes):
            inputs = [subgraph.tensors[at] if at >= 0 else None for at in node.inputs]
            outputs = [subgraph.tensors[at] for at in node.outputs]
            macs = _macs(operator_name(node.builtin, node.custom), inputs, outputs)
            if macs == 0 and node.window is None:
                continue
            source = inputs[2 if node.builtin == 67 and len(inputs) > 2 else 0] if inputs else None
            weights = inputs[1] if len(inputs) > 1 and node.builtin in _WEIGHTED else None
            yield Layer(
                subgraph=number,
                index=index,
                name=operator_name(node.builtin, node.custom),
                builtin=node.builtin,
                macs=macs,
                input_dtype=source.dtype if source else -1,
                input_shape=source.shape if source else (),
                weights_shape=weights.shape if weights else (),
                output_shape=outputs[0].shape if outputs else (),
                window=node.window,
            )


def _macs(name: str, inputs: list[Tensor | None], outputs: list[Tensor]) -> int:
    """Multiply-accumulates of one operator; 0 for those without weights or with shapes that do not fit."""
    sizes = [tensor.shape if tensor else () for tensor in inputs]
    if not outputs or len(sizes) < 2:
        return 0
    out, weights = outputs[0].shape, sizes[1]
    if name == "CONV_2D" and len(weights) == 4:
        return math.prod(out) * math.prod(weights[1:])
    if name == "DEPTHWISE_CONV_2D" and len(weights) == 4:
        return math.prod(out) * weights[1] * weights[2]
    if name == "TRANSPOSE_CONV" and len(weights) == 4 and len(sizes) > 2:
        return math.prod(sizes[2]) * math.prod(weights[:3])
    if name == "FULLY_CONNECTED" and weights:
        return math.prod(out) * weights[-1]
    if name == "BATCH_MATMUL" and sizes[0]:
        return math.prod(out) * sizes[0][-1]
    if name == "SVDF" and len(sizes) > 2:
        return math.prod(sizes[0][:1]) * (math.prod(weights) + math.prod(sizes[2]))
    if name == "UNIDIRECTIONAL_SEQUENCE_LSTM" and len(sizes[0]) == 3:
        matrices = sum(math.prod(shape) for shape in sizes[1:9] if len(shape) == 2)
        return math.prod(sizes[0][:2]) * matrices
    return 0


def _quantisation(layers: tuple[Layer, ...], model: Model, inputs: tuple[TensorSpec, ...]) -> str:
    kinds = set()
    for layer in layers:
        if not layer.weights_shape:
            continue
        subgraph = model.subgraphs[layer.subgraph]
        node = subgraph.nodes[layer.index]
        kinds.add(_scheme(layer.input_dtype, subgraph.tensors[node.inputs[1]].dtype))
    if not kinds:
        kinds = {dtype_name(spec.dtype) for spec in inputs}
    return "none" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"


def _scheme(activation: int, weights: int) -> str:
    if activation in _FLOATS:
        return "float32" if weights in _FLOATS else "hybrid"
    if activation == 7:
        return "int16x8" if weights in _SMALL_INTS else "int16"
    return dtype_name(activation)


def _notes(
    operators: tuple[OperatorUse, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    quantisation: str,
    is_stateful: bool,
) -> Iterator[str]:
    if quantisation in ("int8", "int16x8", "uint8") and any(spec.dtype == 0 for spec in (*inputs, *outputs)):
        yield f"float32 inputs or outputs around an {quantisation} core: the device converts at the edges"
    if quantisation == "float32":
        yield "float32 throughout: about four times the flash, and much slower than int8 on these chips"
    if is_stateful:
        yield "keeps state between inferences: a reset policy must be declared when it is signed"
    if any(use.builtin == _CALL_ONCE for use in operators):
        yield "fills variables once (CALL_ONCE); TFLM's Reset() zeroes them and does not fill them again"
    if any(use.builtin == _WHILE for use in operators):
        yield "WHILE loop (Keras 3 RNN): export with tf-keras for a fused LSTM; loop bodies are counted once"


def _missing(operators: tuple[OperatorUse, ...]) -> Iterator[Reason]:
    absent = [
        use.name
        for use in operators
        if (use.custom not in TFLM_CUSTOM if use.custom else use.builtin not in TFLM_BUILTINS)
    ]
    if absent:
        advice = "; ".join(substitute(name) for name in absent[:4])
        yield Reason("op_missing", f"TFLM has no kernel for {', '.join(absent[:8])}", advice)


def _nodes(model: Model) -> Iterator[tuple[int, int, Node, list[Tensor | None]]]:
    for number, subgraph in enumerate(model.subgraphs):
        for index, node in enumerate(subgraph.nodes):
            yield number, index, node, [subgraph.tensors[at] if at >= 0 else None for at in node.inputs]


def _hybrid(model: Model) -> Iterator[Reason]:
    for number, index, node, inputs in _nodes(model):
        if node.builtin not in _WEIGHTED or not inputs or inputs[0] is None or inputs[0].dtype not in _FLOATS:
            continue
        small = [
            tensor for tensor in inputs[1:] if tensor and tensor.is_constant and tensor.dtype in _SMALL_INTS
        ]
        if small:
            yield Reason(
                "hybrid",
                f"{operator_name(node.builtin)} (operator {index} of subgraph {number}) multiplies "
                f"{dtype_name(inputs[0].dtype)} activations with {dtype_name(small[0].dtype)} weights",
                "quantise the activations too (full int8, with a representative dataset), or keep float32",
            )
            return


def _per_channel(model: Model) -> Iterator[Reason]:
    for number, index, node, inputs in _nodes(model):
        source = inputs[0] if inputs else None
        if node.builtin == _DEQUANTIZE and source and source.is_constant and source.scale_count > 1:
            yield Reason(
                "per_channel_dequantize",
                f"DEQUANTIZE (operator {index} of subgraph {number}) has weights with {source.scale_count} "
                "scales; TFLM applies only the first, and the model computes nonsense",
                "convert with full int8 quantisation instead of weight-only, or quantise weights per tensor",
            )
            return


def _unassigned(model: Model) -> Iterator[Reason]:
    assigned: set[str] = set()
    read: dict[str, tuple[int, int]] = {}
    for number, subgraph in enumerate(model.subgraphs):
        handles = {
            at: node.variable for node in subgraph.nodes if node.builtin == _VAR_HANDLE for at in node.outputs
        }
        for index, node in enumerate(subgraph.nodes):
            handle = handles.get(node.inputs[0]) if node.inputs else None
            if handle is None:
                continue
            if node.builtin == _ASSIGN_VARIABLE:
                assigned.add(handle)
            elif node.builtin == _READ_VARIABLE:
                read.setdefault(handle, (number, index))
    for name, (number, index) in read.items():
        if name not in assigned:
            yield Reason(
                "variable_without_value",
                f"READ_VARIABLE (operator {index} of subgraph {number}) reads {name!r}, never assigned: "
                "the model runs without those weights",
                "export with tf-keras, or freeze the variables into constants before converting",
            )
            return


def _contract(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Iterator[Reason]:
    row_bytes = sum(spec.byte_size for spec in (*inputs, *outputs))
    if row_bytes > ROW_MAX_BYTES:
        # Also keeps our own memory out of the model's hands: rows are made and kept in this process.
        yield Reason(
            "io_contract",
            f"inputs and outputs have {row_bytes:,} bytes, at most {ROW_MAX_BYTES:,} fit a golden vector",
            "use a smaller input, for example a lower resolution",
        )
    for side, specs in (("input", inputs), ("output", outputs)):
        if not 1 <= len(specs) <= 8:
            yield Reason("io_contract", f"the model has {len(specs)} {side}s, a manifest carries 1 to 8")
        for position, spec in enumerate(specs):
            what = f"{side} {position} ('{spec.name}')"
            if spec.dtype not in MANIFEST_DTYPES:
                yield Reason(
                    "io_contract",
                    f"{what} is {spec.dtype_name}, which a device cannot exchange",
                    "use int8, uint8, int16, int32, int64, bool, float16 or float32 at the edges",
                )
            elif not 1 <= len(spec.shape) <= 5:
                yield Reason(
                    "io_contract",
                    f"{what} has {len(spec.shape)} dimensions, a manifest carries 1 to 5",
                    "give the tensor a batch axis, or reshape it inside the model",
                )
