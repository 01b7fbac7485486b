"""Windows without a MAC are kept apart: of each device the newest, at a cost that follows their number."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.telemetry import unproven
from fleet.telemetry.ingest import Delivery
from fleet.telemetry.models import UnprovenWindow
from tests.telemetry.batches import make_batch

pytestmark = pytest.mark.django_db


def stored(device_id: str, start: datetime, *, rows: int) -> None:
    for first in range(0, rows, 50):
        at = start + timedelta(seconds=first * 10)
        unproven.store([Delivery(device_id, make_batch(at, 50, first=first))], now=start)


def test_what_is_trimmed_is_looked_for_once_a_device(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of its own for each row kept was quadratic: 25 million steps a message at 5,000 rows."""
    monkeypatch.setattr(unproven, "MOST", 300)
    start = now - timedelta(hours=2)
    for name in ("dev-1", "dev-2"):
        stored(name, start, rows=300)
    with CaptureQueriesContext(connection) as asked:
        stored("dev-1", start + timedelta(hours=1), rows=50)
    (trim,) = [one["sql"] for one in asked if "DELETE FROM tele_unproven" in one["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {trim}")
        (plan,) = cursor.fetchone()
    (whole,) = json.loads(plan) if isinstance(plan, str) else plan
    assert steps(whole["Plan"]) < 3 * 300
    kept = UnprovenWindow.objects.order_by("ts").values_list("device_id", flat=True)
    assert sorted(kept) == ["dev-1"] * 300 + ["dev-2"] * 300


def steps(plan: dict[str, Any]) -> int:
    """Rows that a plan and all its parts gave or threw away."""
    removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Join Filter", 0)
    gave = plan["Actual Rows"] + removed
    return int(gave * plan["Actual Loops"]) + sum(steps(one) for one in plan.get("Plans", []))
