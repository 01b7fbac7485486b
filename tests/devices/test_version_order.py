"""Versions sort by their numbers, and a pre-release before its release."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.devices.version_order import KEY_CHARS, version_key

# the precedence example of Semantic Versioning 2.0.0 section 11, and what firmware adds to it
RISING = """0.9 1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1
1.0.0 1.0.1 1.2 1.10.0 1.10.0.1 2.0.0-1 2.0.0-a 2 10.0 99999999999999999999"""


def test_versions_rise() -> None:
    for one, two in itertools.combinations(RISING.split(), 2):
        assert version_key(one).encode() < version_key(two).encode(), (one, two)


@pytest.mark.parametrize(
    ("one", "two"), [("1.4", "1.4.0"), ("v1.4.0", "1.4.0.0"), ("1.4.0+77", "1.4"), ("01.4", "1.4")]
)
def test_what_is_the_same_version_has_the_same_key(one: str, two: str) -> None:
    assert version_key(one) == version_key(two) != ""


@pytest.mark.parametrize(
    "text", ["", "new", "1.", ".1", "1.2.3.4.5", "1.0.0-", "1.0 ", "1.0\n", "1²", "1.0.0-a..b", "1" * 25]
)
def test_what_is_no_version_has_no_key(text: str) -> None:
    assert version_key(text) == ""


@given(st.text(alphabet="0123456789.-+vab", max_size=24))
def test_a_key_fits_its_column(text: str) -> None:
    assert len(version_key(text)) <= KEY_CHARS
