"""What a device's index walk refuses besides indices out of range (`tflm_engine/model_check.c`), as rules of
the server: preflight must not release what devices then refuse.

TFLM does not validate a model; it follows what the file says. Each rule here names a place where that ends in
a crash on a board, and mirrors one of the walk; its limits are the walk's. A test holds both against the same
seeded mutants.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from ota.flatbuffer import FlatBufferError, Table, Vector

SUBGRAPHS_MAX: Final = 16
TENSORS_MAX: Final = 8_192
OPERATORS_MAX: Final = 4_096
OPCODES_MAX: Final = 256
BUFFERS_MAX: Final = 32_768
OPERANDS_MAX: Final = 256
DIMENSIONS_MAX: Final = 8
VARIABLES_MAX: Final = 64
ELEMENTS_MAX: Final = 2**31 - 1
OFFLINE_PLAN: Final = b"OfflineMemoryAllocation"

_RESHAPE, _IF, _WHILE, _CALL_ONCE, _VAR_HANDLE = 17, 92, 93, 103, 111
_NEEDED_OPTIONS: Final = {
    1: 5, 17: 5, 2: 10, 3: 1, 4: 2, 9: 8, 25: 9, 27: 6, 44: 71,
    118: _IF, 119: _WHILE, 129: _CALL_ONCE, 142: _VAR_HANDLE,
}  # fmt: skip
"""Builtin code -> union number of the options without which TFLM's preparation dereferences nothing."""
_CONSTANT_TYPES: Final = frozenset({0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 15, 16, 17})
"""Tensor types whose constants have a size that a device knows."""
_CALLED: Final = {
    _IF: ("then_subgraph_index", "else_subgraph_index"),
    _WHILE: ("cond_subgraph_index", "body_subgraph_index"),
    _CALL_ONCE: ("init_subgraph_index",),
}


def elements(shape: Sequence[int], path: str) -> int:
    """Product of a shape, compared factor by factor as a 32-bit device does.

    Raises FlatBufferError for a negative axis, or when a product on the way is above ELEMENTS_MAX (also when
    a later axis is 0).
    """
    product = 1
    for size in shape:
        if size < 0 or product * size > ELEMENTS_MAX:
            raise FlatBufferError(path, f"{list(shape)} is negative or above {ELEMENTS_MAX:,} elements")
        product *= size
    return product


def constant_type(dtype: int, name: str, data_bytes: int, path: str) -> None:
    """Raise FlatBufferError when a tensor has constants of a type without a size that devices know."""
    if data_bytes and dtype not in _CONSTANT_TYPES:
        raise FlatBufferError(path, f"constants of type {name}, whose size no device knows")


def channels(quantisation: Table, shape: Sequence[int], scales: int, zero_points: int) -> None:
    """A kernel reads one scale for each channel of an axis: there must be as many, and an axis to count.

    Raises FlatBufferError.
    """
    if zero_points > 1 and zero_points != scales:
        raise FlatBufferError(f"{quantisation.path}.zero_point", f"{zero_points} of them for {scales} scales")
    axis = quantisation.scalar(6, "u32", "quantized_dimension")
    if scales > 1 and (axis >= len(shape) or shape[axis] != scales):
        raise FlatBufferError(
            f"{quantisation.path}.scale", f"{scales} scales for axis {axis} of {list(shape)}"
        )


def required(table: Table, number: int, name: str) -> Vector:
    """A vector that must be there, because TFLM asks an absent one for its size. Raises FlatBufferError."""
    found = table.vector(number, 4, name)
    if found is None:
        raise FlatBufferError(f"{table.path}.{name}", "the vector is missing")
    return found


class Options:
    """Rules of operators' options over a whole model: what they call, and the variables they name."""

    def __init__(self, subgraphs: int) -> None:
        """subgraphs: how many the model has."""
        self._subgraphs = subgraphs
        self._calls: dict[int, set[int]] = {}
        self._variables: set[bytes] = set()
        self._containers: set[bool] = set()

    def read(self, operator: Table, builtin: int, subgraph: int) -> tuple[Table | None, tuple[int, ...]]:
        """(the options or None, subgraphs that the operator runs). Raises FlatBufferError for options that
        are missing, of another operator, or lead nowhere.
        """
        options = operator.table(4, "builtin_options")
        kind = operator.scalar(3, "u8", "builtin_options_type")
        needed = _NEEDED_OPTIONS.get(builtin, 0)
        if needed and (options is None or kind != needed):
            raise FlatBufferError(
                f"{operator.path}.builtin_options",
                f"options of type {kind if options else 0}, operator {builtin} needs type {needed}",
            )
        if options is None:
            return None, ()
        if kind == _RESHAPE:
            shape = options.vector(0, 4, "new_shape")
            if shape is not None and shape.count > DIMENSIONS_MAX:
                raise FlatBufferError(shape.path, f"{shape.count:,} axes, at most {DIMENSIONS_MAX} are read")
        if kind == _VAR_HANDLE:
            self._variable(options)
        called = []
        for number, name in enumerate(_CALLED.get(kind, ())):
            index = options.scalar(number, "u32", name)
            if index >= self._subgraphs:
                raise FlatBufferError(
                    f"{options.path}.{name}", f"index {index} is outside 0..{self._subgraphs - 1}"
                )
            called.append(index)
        self._calls.setdefault(subgraph, set()).update(called)
        return options, tuple(called)

    def close(self) -> None:
        """Raise FlatBufferError when a subgraph reaches itself: TFLM would recurse without end."""
        reach = {start: set(first) for start, first in self._calls.items()}
        for via in range(self._subgraphs):
            for found in reach.values():
                if via in found:
                    found |= reach.get(via, set())
        for start, found in reach.items():
            if start in found:
                raise FlatBufferError(f"model.subgraphs[{start}]", "the subgraph runs itself")

    def _variable(self, options: Table) -> None:
        # TFLM compares names with strcmp: a missing one, or a container on some variables only, is a crash.
        name = options.text(1, "shared_name")
        if name is None:
            raise FlatBufferError(f"{options.path}.shared_name", "a resource variable without a name")
        self._containers.add(options.text(0, "container") is not None)
        if len(self._containers) > 1:
            raise FlatBufferError(f"{options.path}.container", "given for some resource variables only")
        self._variables.add(name)
        if len(self._variables) > VARIABLES_MAX:
            raise FlatBufferError(f"{options.path}.shared_name", f"more than {VARIABLES_MAX} variables")


def offline_plan(entry: Table, data: Vector | None, tensors: int) -> None:
    """TFLM trusts an offline memory plan: [version, subgraph, n, n offsets], -1 = plan it online.

    entry: a row of the metadata. data: its buffer. tensors: of the first subgraph. Raises FlatBufferError.
    """
    if entry.text(0, "name") != OFFLINE_PLAN:
        return
    words = b"" if data is None else data.raw()
    numbers = [number for (number,) in struct.iter_unpack("<i", words[: len(words) // 4 * 4])]
    if len(numbers) < 3 or numbers[2] != tensors or tensors > len(numbers) - 3:
        raise FlatBufferError(entry.path, f"the memory plan does not fit {tensors} tensors")
    if any(offset < -1 for offset in numbers[3 : 3 + tensors]):
        raise FlatBufferError(entry.path, "the memory plan has an offset below -1")
