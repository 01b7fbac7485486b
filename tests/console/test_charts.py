"""Geometry of bars and charts: nothing is invented, nothing is left out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from fleet.console import charts
from fleet.console.charts import Sample
from fleet.telemetry import ingest
from fleet.telemetry.ingest import Delivery
from tests.console import rows
from tests.telemetry.batches import sketch_batch

START = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)
COUNTS = st.lists(st.integers(0, 10_000), max_size=8)


def drawn(values: list[float | None], **more: object) -> charts.Chart:
    samples = [Sample(START + timedelta(minutes=index), value) for index, value in enumerate(values)]
    end = START + timedelta(minutes=max(len(values) - 1, 1))
    return charts.time_chart("t", {"a": samples}, start=START, end=end, unit="ratio", **more)  # type: ignore[arg-type]


@given(COUNTS, st.integers(0, 50_000))
def test_segments_of_a_bar_are_their_share_side_by_side(counts: list[int], total: int) -> None:
    segments = charts.bar([(f"s{index}", n, "", "") for index, n in enumerate(counts)], total)
    whole = max(total, sum(counts), 1)
    assert [segment.count for segment in segments] == [n for n in counts if n]
    at = 0.0
    for segment in segments:
        assert segment.x == pytest.approx(at, abs=0.01)
        assert segment.width == pytest.approx(100 * segment.count / whole, abs=0.01)
        at += segment.width
    assert at <= 100.02


def test_an_empty_bucket_is_a_gap_and_a_lone_value_a_dot() -> None:
    line = drawn([0.9, 0.8, None, 0.7, None, 0.6, 0.6]).lines[0]
    assert len(line.runs) == 2
    assert len(line.dots) == 1
    assert line.dots[0].x == 50.0


def test_nothing_measured_is_an_empty_chart() -> None:
    assert drawn([None, None]).is_empty
    assert drawn([]).is_empty


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_every_value_lies_inside_the_axis(values: list[float]) -> None:
    low, high, step = charts.axis(values, floor=0.0, ceiling=1.0)
    assert low - 1e-9 <= min(values)
    assert high + 1e-9 >= max(values)
    assert 2 <= len(charts.marks(low, high, step)) <= 8
    for line in drawn(list(values), floor=0.0, ceiling=1.0).lines:
        for run in line.runs:
            for pair in run.split():
                x, y = map(float, pair.split(","))
                assert -0.1 <= x <= 1000.1
                assert -0.1 <= y <= 1000.1


def test_a_long_line_is_thinned_and_keeps_its_last_value() -> None:
    samples = [Sample(START + timedelta(seconds=index), index / 9999) for index in range(5000)]
    thinned = charts.thin(samples)
    assert len(thinned) <= charts.MAX_POINTS
    assert thinned[-1] == samples[-1]


@pytest.mark.parametrize(
    ("step", "wanted"), [(0.05, "92 %"), (0.025, "92.5 %"), (0.001, "92.5 %"), (0.0001, "92.50 %")]
)
def test_labels_have_the_digits_their_step_needs(step: float, wanted: str) -> None:
    assert charts.amount(0.925 if step < 0.05 else 0.92, "ratio", step) == wanted


def test_a_gate_chart_holds_its_limits_and_clips_what_explodes() -> None:
    trace = [[t, t * 0.4, -t * 0.6] for t in range(1, 41)]
    chart = charts.trace_chart("t", trace, limit=40, promote_limit=20)
    assert [limit.label for limit in chart.limits] == ["E halts at 40", "N passes at 20"]
    assert 0 < chart.limits[0].y < chart.limits[1].y < 100
    for line in chart.lines:
        assert all(0 <= float(pair.split(",")[1]) <= 1000 for pair in line.runs[0].split())
    assert [charts.power(n) for n in (-2, 0, 1, 2, 3)] == ["10⁻²", "1", "10", "100", "10³"]


def test_the_explorer_draws_gaps_prints_a_table_and_the_same_api_call(
    as_role: Callable[[str], Client], filled: rows.Filled
) -> None:
    client = as_role("viewer")
    html = client.get("/telemetry?metric=accuracy&range=6h").content.decode()
    assert html.count('<polyline class="c2"') == 2, "the quarter of an hour without telemetry is a gap"
    assert "proxy" in html
    assert '"kind": "proxy"'.replace('"', "&quot;") in html
    assert 'data-test="telemetry-table"' in html
    assert client.get("/telemetry?end=yesterday").status_code == 422
    old = client.get("/telemetry?end=2020-01-01T00:00")
    assert old.status_code == 422
    assert "raw_expired" in old.content.decode()
    assert client.get("/telemetry?metric=nonsense&range=nonsense").status_code == 200


def test_the_explorer_draws_percentiles_of_whole_hours(
    as_role: Callable[[str], Client], filled: rows.Filled
) -> None:
    client = as_role("viewer")
    now = datetime.now(UTC)
    batch = sketch_batch(now - timedelta(hours=3), model="activity", version="9")
    ingest.store([Delivery("dev-000", batch)], slot=0, now=now)
    html = client.get("/telemetry?metric=latency-p95&range=24h").content.decode()
    assert "activity 9" in html
    assert "3.0 ms" in html, "the middle of bin 226 is 2.97 ms"
    assert "&quot;step&quot;: 3600" in html


def test_a_telemetry_query_narrows_the_chart_and_a_wrong_one_says_where(
    as_role: Callable[[str], Client], filled: rows.Filled
) -> None:
    client = as_role("viewer")
    whole = client.get("/telemetry?range=6h").content.decode()
    older = client.get("/telemetry?range=6h&q=version=lt=1.0.0").content.decode()
    assert 'data-test="telemetry-table"' in whole
    assert 'data-test="empty"' in older
    assert "that the query selects" in older
    assert "&quot;q&quot;: &quot;version=lt=1.0.0&quot;" in older
    wrong = client.get("/telemetry?range=6h&q=verzion==1.0.0")
    assert wrong.status_code == 422
    assert 'data-code="query_unknown_field"' in wrong.content.decode()
