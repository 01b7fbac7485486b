"""Quantisation in C: byte for byte what the Python reference makes, faults counted and kept out."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from device_firmware.host.core import CODES, Tensor
from device_firmware.host.engine import dequantise, quantise
from tests.firmware.stages import Stages, Values

TYPES = {9: (-128, 127), 3: (0, 255), 7: (-32_768, 32_767)}
scales = st.floats(2**-20, 2**10, width=32)
finite = st.floats(-(2**31), 2**31, width=32)
any_float = st.floats(width=32)
arrays = hnp.arrays(np.float32, st.integers(1, 64), elements=finite)


def tensor(dtype: int, count: int, scale: float, zero: int) -> Tensor:
    return Tensor(dtype, (count,), scale, zero, count)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[int, float, int]:
    dtype = draw(st.sampled_from(list(TYPES)))
    return dtype, draw(st.just(0.0) | scales), draw(st.integers(*TYPES[dtype]))


@settings(max_examples=400, deadline=None)
@given(tensors(), arrays)
def test_finite_values_become_the_bytes_of_the_reference(
    spec: tuple[int, float, int], values: Values
) -> None:
    dtype, scale, zero = spec
    found = Stages().quantise(values, dtype=dtype, scale=scale, zero=zero)
    assert isinstance(found, tuple)
    assert found[0] == quantise(values, tensor(dtype, values.size, scale, zero))
    assert found[2] == 0


@settings(max_examples=200, deadline=None)
@given(tensors(), st.integers(-40_000, 40_000), st.sampled_from([-1, 0, 1]))
def test_halves_go_away_from_zero(spec: tuple[int, float, int], half: int, ulp: int) -> None:
    """Around every tie: a step and a half, one float below it and one above."""
    dtype, scale, zero = spec
    at = np.float32((half + 0.5) * (scale or 1.0))
    value = np.nextafter(at, np.float32(ulp * np.inf)) if ulp else at
    values = np.array([value], np.float32)
    found = Stages().quantise(values, dtype=dtype, scale=scale, zero=zero)
    assert isinstance(found, tuple)
    assert found[0] == quantise(values, tensor(dtype, 1, scale, zero))


@settings(max_examples=200, deadline=None)
@given(tensors(), hnp.arrays(np.float32, st.integers(1, 32), elements=any_float))
def test_what_is_no_number_becomes_the_zero_point_and_is_counted(
    spec: tuple[int, float, int], values: Values
) -> None:
    dtype, scale, zero = spec
    found = Stages().quantise(values, dtype=dtype, scale=scale, zero=zero)
    assert isinstance(found, tuple)
    raw, clamped, faults = found
    bad = ~np.isfinite(values)
    assert faults == bad.sum()
    cleaned = np.where(bad, np.float32(0), values)
    assert raw == quantise(cleaned, tensor(dtype, values.size, scale, zero))
    exact = np.floor(np.abs(cleaned.astype(np.float64) / (scale or 1.0)) + 0.5) * np.sign(cleaned) + zero
    low, high = TYPES[dtype]
    assert clamped == ((exact < low) | (exact > high)).sum()


@settings(max_examples=100, deadline=None)
@given(tensors(), st.data())
def test_reading_back_gives_the_real_value(spec: tuple[int, float, int], data: st.DataObject) -> None:
    dtype, scale, zero = spec
    kind = {9: np.int8, 3: np.uint8, 7: np.int16}[dtype]
    steps = data.draw(hnp.arrays(kind, 16))
    found = Stages().dequantise(steps.tobytes(), 16, dtype=dtype, scale=scale, zero=zero)
    np.testing.assert_allclose(found, dequantise(steps.tobytes(), tensor(dtype, 16, scale, zero)), rtol=1e-6)


def test_float_tensors_get_the_numbers_themselves() -> None:
    values = np.array([1.5, -0.0, np.nan, np.inf, 3e38], np.float32)
    found = Stages().quantise(values, dtype=0, scale=0, zero=0)
    assert isinstance(found, tuple)
    assert found[0] == np.array([1.5, -0.0, 0, 0, 3e38], np.float32).tobytes()
    assert found[1:] == (1, 2), "3e38 is no value that 1/256 steps count"


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"),
    [
        (2, 1, 0),
        (1, 1, 0),
        (4, 1, 0),
        (6, 1, 0),
        (9, -1.0, 0),
        (9, 1, 128),
        (3, 1, -1),
        (9, np.inf, 0),
        (9, np.nan, 0),
    ],
)
def test_tensors_that_no_sensor_feeds_are_refused(dtype: int, scale: float, zero: int) -> None:
    struct.pack("<f", scale)
    found = Stages().quantise(np.zeros(1, np.float32), dtype=dtype, scale=scale, zero=zero)
    assert found == CODES["io_contract"]
