"""Ingest as processes under load: killed in mid-stream, and measured; every record is counted once."""

import os
import subprocess
import sys

import pytest

from fleet.stack.paths import PROJECT_ROOT
from tests.bench.telemetry.disk import NOT_ALLOWED


def bench(module: str, *arguments: str) -> str:
    """What a benchmark prints; it exits 0 only with exact counts. Its own services, so not our settings."""
    outside = ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.telemetry.{module}", *arguments],
        cwd=PROJECT_ROOT,
        env={name: value for name, value in os.environ.items() if name not in outside},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode == NOT_ALLOWED:
        pytest.skip(done.stderr.strip()[-300:])
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("victim", ["gateway", "database", "broker"])
def test_rows_and_rollup_equal_what_was_sent_when_this_is_killed(victim: str) -> None:
    assert "verdict: ok" in bench("crash", "--victim", victim, "--messages", "3000", "--kills", "2")


def test_nothing_is_lost_while_postgresql_is_away_for_longer_than_the_broker_waits_for_a_ping() -> None:
    assert "verdict: ok" in bench("crash", "--victim", "outage", "--outage", "35")


def test_nothing_is_lost_or_counted_twice_while_the_disk_of_postgresql_is_full() -> None:
    assert "verdict: ok" in bench(
        "crash", "--victim", "disk", "--messages", "3000", "--kills", "2", "--outage", "4"
    )


def test_the_gateway_stores_everything_and_keeps_up_with_a_share_of_the_raw_rate() -> None:
    assert "verdict: ok" in bench("ingest", "--short", "--deadline", "120")
