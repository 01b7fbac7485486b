"""kill -9 of worker, gateway and broker in the middle of a rollout loses nothing and counts nothing twice."""

import os
import signal

import psycopg
import pytest

from fleet.client import wait_for
from fleet.demo import plans, story
from fleet.demo.report import Step
from tests.e2e.conftest import DEVICES, Fleet

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stack"), pytest.mark.timeout(900)]


def test_a_rollout_completes_although_worker_gateway_and_broker_are_killed(fleet: Fleet) -> None:
    setting = fleet.setting
    story.release(setting, Step("c", "release"), "2.0.0", "activity-v2")
    story.history(setting)
    rollout = story.roll_out(setting, "killed in between", "2.0.0", plans.gated(DEVICES))
    story.await_start(setting, rollout)

    def second_wave() -> tuple[str | None, str]:
        seen = fleet.api.get(f"/rollouts/{rollout}")
        assert seen["state"] in ("running", "completed"), seen["sentence"]
        state = seen["waves"][1]["state"]
        return (state if state in ("open", "soaking") else None), seen["sentence"]

    wait_for("second wave", second_wave, deadline_s=240, every_s=0.3)
    for name in ("worker", "gateway", "mosquitto"):
        before = fleet.stack.supervisor.pid(name)
        os.killpg(before, signal.SIGKILL)

        def restarted(name: str = name, before: int = before) -> tuple[int | None, str]:
            now = fleet.stack.supervisor.pid(name)
            is_back = now != before and fleet.stack.supervisor.is_running(name)
            return (now if is_back else None), f"{name} pid {now}"

        wait_for(f"{name} restarted", restarted, deadline_s=60)
    story.ended(setting, Step("c", "roll out"), rollout, "completed", deadline_s=400)
    assert story.running(setting) == {"activity 2.0.0": DEVICES}
    stuck = [job for job in fleet.api.every(f"/rollouts/{rollout}/jobs") if job["state"] != "confirmed"]
    assert stuck == []

    def counted_once() -> tuple[bool | None, str]:
        with psycopg.connect(fleet.info.env["DATABASE_URL"]) as database:
            gaps = database.execute(
                "SELECT device_id, seq >> 32, count(*), max(seq) - min(seq) + 1 FROM ("
                "SELECT device_id, seq FROM tele_window UNION ALL SELECT device_id, seq FROM tele_inference"
                " UNION ALL SELECT device_id, seq FROM tele_sketch) AS record"
                " GROUP BY 1, 2 HAVING count(*) <> max(seq) - min(seq) + 1"
            ).fetchall()
            raw = database.execute(
                "SELECT count(*), sum(n), sum(lab_n), sum(lab_ok) FROM tele_window"
            ).fetchone()
            rolled = database.execute(
                "SELECT sum(windows), sum(n), sum(lab_n), sum(lab_ok) FROM tele_minute"
            ).fetchone()
        is_equal = (
            raw is not None and rolled is not None and [int(v) for v in raw] == [int(v) for v in rolled]
        )
        return (True if not gaps and is_equal else None), f"gaps {gaps[:5]}, raw {raw}, rollups {rolled}"

    assert wait_for("every window counted once", counted_once, deadline_s=60)
