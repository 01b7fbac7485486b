"""Device classes that every installation starts with.

Bare Python: preflight without a database reads them too.

The arena sizes of ESP32 boards are estimates of what internal memory leaves beside Wi-Fi and TLS; slot sizes
follow the partition tables of `device_firmware/`. `host-*` are virtual devices: no figure of theirs is an
ESP32's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Builtin operator codes of the TFLite schema that TensorFlow Lite Micro has kernels for, by name.
OPERATORS: Final[dict[str, int]] = {
    "ADD": 0, "AVERAGE_POOL_2D": 1, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4,
    "DEPTH_TO_SPACE": 5, "DEQUANTIZE": 6, "EMBEDDING_LOOKUP": 7, "FLOOR": 8, "FULLY_CONNECTED": 9,
    "L2_NORMALIZATION": 11, "L2_POOL_2D": 12, "LOGISTIC": 14, "MAX_POOL_2D": 17, "MUL": 18, "RELU": 19,
    "RELU6": 21, "RESHAPE": 22, "RESIZE_BILINEAR": 23, "SOFTMAX": 25, "SPACE_TO_DEPTH": 26, "SVDF": 27,
    "TANH": 28, "PAD": 34, "GATHER": 36, "BATCH_TO_SPACE_ND": 37, "SPACE_TO_BATCH_ND": 38, "TRANSPOSE": 39,
    "MEAN": 40, "SUB": 41, "DIV": 42, "SQUEEZE": 43, "UNIDIRECTIONAL_SEQUENCE_LSTM": 44, "STRIDED_SLICE": 45,
    "EXP": 47, "SPLIT": 49, "LOG_SOFTMAX": 50, "CAST": 53, "PRELU": 54, "MAXIMUM": 55, "ARG_MAX": 56,
    "MINIMUM": 57, "LESS": 58, "NEG": 59, "PADV2": 60, "GREATER": 61, "GREATER_EQUAL": 62, "LESS_EQUAL": 63,
    "SLICE": 65, "SIN": 66, "TRANSPOSE_CONV": 67, "EXPAND_DIMS": 70, "EQUAL": 71, "NOT_EQUAL": 72, "LOG": 73,
    "SUM": 74, "SQRT": 75, "RSQRT": 76, "SHAPE": 77, "ARG_MIN": 79, "REDUCE_MAX": 82, "PACK": 83,
    "LOGICAL_OR": 84, "LOGICAL_AND": 86, "LOGICAL_NOT": 87, "UNPACK": 88, "REDUCE_MIN": 89, "FLOOR_DIV": 90,
    "SQUARE": 92, "ZEROS_LIKE": 93, "FILL": 94, "FLOOR_MOD": 95, "RESIZE_NEAREST_NEIGHBOR": 97,
    "LEAKY_RELU": 98, "SQUARED_DIFFERENCE": 99, "MIRROR_PAD": 100, "ABS": 101, "SPLIT_V": 102, "CEIL": 104,
    "REVERSE_V2": 105, "ADD_N": 106, "GATHER_ND": 107, "COS": 108, "ELU": 111, "QUANTIZE": 114, "ROUND": 116,
    "HARD_SWISH": 117, "IF": 118, "WHILE": 119, "SELECT_V2": 123, "BATCH_MATMUL": 126, "CUMSUM": 128,
    "CALL_ONCE": 129, "BROADCAST_TO": 130, "REDUCE_ALL": 140, "VAR_HANDLE": 142, "READ_VARIABLE": 143,
    "ASSIGN_VARIABLE": 144, "BROADCAST_ARGS": 145, "DYNAMIC_UPDATE_SLICE": 151,
}  # fmt: skip

COMMON: Final = (
    "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE EXPAND_DIMS FULLY_CONNECTED"
    " LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL PACK PAD QUANTIZE RELU RELU6 RESHAPE SHAPE SOFTMAX SQUEEZE"
    " STRIDED_SLICE SUB TANH TRANSPOSE"
)
"""Operators of small convolutional and dense models: what boards link unless their class says otherwise."""


def codes(names: str) -> tuple[int, ...]:
    """Builtin codes of operator names separated by blanks, rising.

    Raises KeyError for one that TFLM lacks.
    """
    return tuple(sorted(OPERATORS[name] for name in names.split()))


@dataclass(frozen=True)
class DefaultClass:
    """A kind of board. slot_bytes: capacity of each slot for model and golden blob, whole chunks."""

    name: str
    chip: str
    arena_bytes: int
    slot_bytes: tuple[int, ...]
    operators: tuple[int, ...]
    esp_nn_version: str
    firmware_version: str
    description: str


DEFAULT_CLASSES: Final[tuple[DefaultClass, ...]] = (
    DefaultClass(
        "host-a", "host", 98_304, (385_024,), tuple(sorted(OPERATORS.values())), "", "1.0.0",
        "Virtual device, 96 KiB arena, every operator of the tflite-micro wheel",
    ),
    DefaultClass(
        "host-b", "host", 49_152, (196_608,), codes(COMMON), "", "1.0.0",
        "Virtual device, 48 KiB arena, operators of small convolutional models",
    ),
    DefaultClass(
        "esp32-4m", "esp32", 81_920, (385_024, 57_344), codes(COMMON), "1.2.3", "1.0.0",
        "ESP32 with 4 MB flash and no PSRAM; arena size is an estimate",
    ),
    DefaultClass(
        "esp32s3-8m", "esp32s3", 163_840, (1_302_528, 385_024, 122_880, 57_344), codes(COMMON), "1.2.3",
        "1.0.0",
        "ESP32-S3 with 8 MB flash, arena in internal memory; arena size is an estimate",
    ),
    DefaultClass(
        "esp32c3-4m", "esp32c3", 102_400, (385_024, 57_344), codes(COMMON), "1.2.3", "1.0.0",
        "ESP32-C3 with 4 MB flash; arena size is an estimate",
    ),
)  # fmt: skip
