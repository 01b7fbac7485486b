"""The walk: what people do, on the real stack, ends as told."""

import psycopg
import pytest

from fleet.client import wait_for
from fleet.demo import story
from tests.e2e.conftest import DEVICES, Fleet

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(600)]


def test_every_device_confirms_the_first_model_and_reports_what_it_runs(fleet: Fleet) -> None:
    assert story.running(fleet.setting) == {"activity 1.0.0": DEVICES}


def test_each_chunk_was_published_once_for_all_devices(fleet: Fleet) -> None:
    version = fleet.api.get("/models/activity/versions/1.0.0")
    assert version["staging"]["state"] == "staged"
    assert version["staging"]["publishes"] == version["staging"]["chunks"] > 0


def test_telemetry_of_every_device_carries_proxy_accuracy(fleet: Fleet) -> None:
    def look() -> tuple[int | None, str]:
        with psycopg.connect(fleet.info.env["DATABASE_URL"]) as database:
            row = database.execute(
                "SELECT count(DISTINCT device_id), sum(lab_ok)::float / nullif(sum(lab_n), 0)"
                " FROM tele_window"
            ).fetchone()
        assert row is not None
        return (row[0] if row[0] == DEVICES and row[1] and row[1] > 0.5 else None), str(row)

    assert wait_for("telemetry of all", look, deadline_s=60) == DEVICES
