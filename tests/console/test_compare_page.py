"""The comparison page: a sentence first, both sides with their intervals, the call that gives the same."""

import html
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from fleet.console import interval_chart
from fleet.console.interval_chart import Value
from tests.alerts.planting import plant_devices, plant_windows
from tests.api.conftest import Caller
from tests.api.conftest import call as call
from tests.console import rows

AsRole = Callable[[str], Client]
pytestmark = pytest.mark.django_db


@pytest.fixture
def told(present: datetime) -> None:
    """Six devices with 2.0.0 of which about 6 in 10 labels agree, six with 1.0.0 of which 9 in 10 do."""
    ids = plant_devices(12, present)
    for n, one in enumerate(ids):
        is_new = n < 6
        plant_windows(
            [one], present, 5, n=100, lab_n=100, lab_ok=(60 if is_new else 90) + n % 3,
            us_mean=2_000 + 10 * n, us_max=9_000,
            version="2.0.0" if is_new else "1.0.0", mid=("f" if is_new else "a") * 16,
        )  # fmt: skip


def page(client: Client, status: int = 200, **asked: str) -> str:
    answer = client.get("/telemetry/compare?" + urlencode(asked))
    assert answer.status_code == status
    return html.unescape(answer.content.decode())


def sentence(text: str) -> str:
    found = re.search(r'data-test="sentence">(.*?)</p>', text)
    assert found is not None
    return found[1]


VERSIONS = {"a": "version==2.0.0", "b": "version==1.0.0", "days": "7"}


def test_it_says_which_side_is_better_and_how_certain_that_is(as_role: AsRole, told: None) -> None:
    client = as_role("viewer")
    text = page(client, **VERSIONS)
    assert sentence(text).startswith("A is 30.0 points lower than B for certain (95 %: ")
    assert "A: version==2.0.0: 61.0 % (60.1 to 61.9)" in text
    assert text.count('class="whisker') == 2
    assert text.count('data-label="Devices">6<') == 2
    assert text.count('data-label="Samples">3\u202f000<') == 2
    same = page(client, **{**VERSIONS, "a": "version==1.0.0"})
    assert "may be chance" in sentence(same) or "Each of 6 devices against itself" in sentence(same)
    slow = page(client, metric="latency", **VERSIONS)
    assert "0.06 ms lower than B for certain" in sentence(slow)


def test_the_call_that_it_shows_has_the_same_answer(as_role: AsRole, told: None, call: Caller) -> None:
    text = page(as_role("viewer"), q="class==host-a", **VERSIONS)
    found = re.search(r'data-test="api-call">GET /api/v1(\S+)</pre>', text)
    assert found is not None
    answer = call("GET", found[1])
    assert answer.status_code == 200, answer.json()
    assert (answer.json()["a"]["n_devices"], answer.json()["b"]["n"]) == (6, 3_000)
    assert answer.json()["difference"]["value"] == pytest.approx(-0.30, abs=1e-9)


def test_a_rollout_is_its_waves_against_its_control(as_role: AsRole, filled: rows.Filled) -> None:
    text = page(as_role("viewer"), rollout=str(filled.rollouts["halted"].pk))
    assert "control" in text
    assert filled.rollouts["halted"].name in text


def test_without_two_sides_it_says_what_is_missing_and_where_to_begin(as_role: AsRole, told: None) -> None:
    client = as_role("viewer")
    text = page(client)
    assert "What is compared?" in text
    assert "activity" in text
    link = re.search(r'<a href="\?([^"]+)" data-test="pair">', text)
    assert link is not None
    assert client.get(f"/telemetry/compare?{link[1]}").status_code == 200
    assert "One side is missing" in page(client, a="version==1.0.0")


def test_a_side_without_measurements_is_no_zero(as_role: AsRole, told: None) -> None:
    text = page(as_role("viewer"), **{**VERSIONS, "b": "version==9"})
    assert sentence(text) == "Nothing was measured of B in this range."
    assert "nothing measured" in text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"b": "version=="}, "query_syntax"),
        ({"q": "colour==red"}, "query_unknown_field"),
        ({"rollout": "none"}, "group_by_not_supported"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_code_and_values_kept(
    as_role: AsRole, told: None, asked: Any, words: str
) -> None:
    text = page(as_role("viewer"), 422, **{**VERSIONS, **asked})
    assert words in text
    assert 'value="version==2.0.0"' in text
    assert 'data-test="comparison"' not in text


def test_intervals_are_drawn_on_one_axis_and_what_is_unknown_is_left_out() -> None:
    drawn = interval_chart.intervals(
        "t", [Value("A", 0.5, 0.4, 0.6), Value("B", None, None, None), Value("C", 0.9, None, None)],
        unit="ratio",
    )  # fmt: skip
    first, last = drawn.whiskers
    assert first.low is not None
    assert first.high is not None
    assert 0 <= first.low < first.x < first.high < last.x <= 100
    assert (last.low, last.high, last.text) == (None, None, "90.0 % (no interval)")


@pytest.mark.parametrize(
    ("value", "lower", "upper", "words"),
    [
        (-0.05, -0.07, -0.03, "5.0 points lower than B for certain (95 %: 3.0 to 7.0 points)"),
        (0.05, 0.03, 0.07, "5.0 points higher than B for certain (95 %: 3.0 to 7.0 points)"),
        (
            0.01,
            -0.02,
            0.04,
            "may be chance: the 95 % interval goes from 2.0 points lower to 4.0 points higher",
        ),
        (0.01, None, None, "1.0 points higher than B; one device on a side has no interval"),
    ],
)
def test_a_difference_is_told_with_its_certainty(value: float, lower: Any, upper: Any, words: str) -> None:
    assert words in interval_chart.difference(value, lower, upper, "ratio")
