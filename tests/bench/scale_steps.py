"""The steps of `tests.bench.rollout_scale`, in the process whose time and memory are measured.

Each step is the product's own verb against real servers: preflight, start, ticks, signing and publishing.
What devices would answer is written as rows, because reports have costs of their own, not asked for here.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from django.db import connection
from django.db.models import Count

from fleet.devices.installation import installation_id
from fleet.devices.models import DeviceSlot
from fleet.mqtt import topics
from fleet.mqtt.client import BackendClient
from fleet.mqtt.codec.names import ConfigKey
from fleet.mqtt.publisher import BulkPublisher
from ota import approval, delivery, desired_rows, keys, publishing, reconcile, rollouts, staging, ticking
from ota.choices import JobState, RolloutState
from ota.models import Job, Manifest, Membership, Rollout
from ota.transitions import BATCH, move_jobs
from tests.bench import enrolled
from tests.bench.enrolled import ACTOR, SECOND

GATED: Final[dict[str, Any]] = {
    "waves": [{"count": 20}, {"percent": 10}, {"percent": 100}],
    "control": {"percent": 5},
    "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": 0.03}],
    "accept_proxy": True,
}
"""What production would use: a first wave, a gated tenth, the rest."""
OPEN: Final[dict[str, Any]] = {
    "waves": [{"percent": 100}],
    "soak_s": 0,
    "max_in_flight": 5_000,
    "max_in_flight_later": 5_000,
}
"""One wave of everybody with the highest cap: the most work a tick and a publisher ever have."""
ALONE: Final = 5_000
"""Documents signed and published for the comparison."""
ALONE_S: Final = 120.0


@dataclass
class Meter:
    """What steps cost. rows: one object a step: wall and CPU seconds, peak memory, and what it counted."""

    say: Callable[[str], None]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Measure a step; the block adds its own figures to the object it gets."""
        row: dict[str, Any] = {}
        _forget_peak()
        wall_s, used_s = time.monotonic(), _cpu_s()
        yield row
        row["wall_s"] = round(time.monotonic() - wall_s, 3)
        row["cpu_s"] = round(_cpu_s() - used_s, 3)
        row["peak_mib"] = round(_peak_mib(), 1)
        self.rows[name] = row
        self.say(f"{name}: {row}")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _forget_peak() -> None:
    """Let the kernel's peak of resident memory start anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def run(
    devices: int,
    *,
    now: datetime,
    offers: int,
    seed: int = 1,
    say: Callable[[str], None] = lambda _line: None,
) -> dict[str, dict[str, Any]]:
    """All steps with this many devices on an empty, migrated database; the figures of each by name.

    offers: how many devices are offered to and confirm before the open rollout is left alone.
    """
    meter = Meter(say)
    enrolled.prepare(now)
    baseline = enrolled.manifest(1, kib=8, now=now, seed=seed)
    candidate = enrolled.manifest(2, kib=64, now=now, seed=seed)
    with meter.step("enrol") as row:
        enrolled.enrol(devices, baseline, now=now, told=lambda n: say(f"enrolled {n:,}"))
        row["devices"] = devices
    publishing.publish_trust()
    staging.request(candidate)
    staging.stage(candidate.pk, now=now)
    _plan_and_start(meter, candidate, devices, now)
    rollout = _open(candidate, now)
    _ticks(meter, rollout, devices, offers, now)
    _documents(meter, devices, now)
    return meter.rows


def _plan_and_start(meter: Meter, candidate: Manifest, devices: int, now: datetime) -> None:
    rollout = rollouts.create("gated", candidate, plan=GATED, actor=ACTOR, now=now)
    with meter.step("preflight") as row:
        rollouts.run_preflight(rollout, actor=ACTOR, now=now)
        row |= {"state": str(rollout.state), "eligible": rollout.summary["eligible"], "why": rollout.reason}
    _approve(rollout, now)
    with meter.step("start") as row:
        rollouts.start(rollout, actor=ACTOR, now=now)
    with meter.step("start: carried out") as row:
        rollouts.carry_on(rollout.pk, now=now)
        rollout.refresh_from_db()
        row["rows"] = Membership.objects.filter(rollout=rollout).count()
    meter.rows["start: carried out"]["most_rows_a_transaction"] = most_rows_a_transaction(Membership)
    rollouts.abort(rollout, actor=ACTOR, now=now)
    while rollout.state != RolloutState.ABORTED:
        ticking.tick(rollout.pk, now)
        rollout.refresh_from_db()


def most_rows_a_transaction(model: Any) -> int:
    """Rows of a table that one transaction left behind, at most; savepoints count as transactions."""
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT max(n) FROM (SELECT count(*) n FROM "{table}" GROUP BY xmin::text) t')
        (most,) = cursor.fetchone() or (0,)
    return int(most or 0)


def _open(candidate: Manifest, now: datetime) -> Rollout:
    rollout = rollouts.create("open", candidate, plan=OPEN, actor=ACTOR, now=now)
    rollouts.run_preflight(rollout, actor=ACTOR, now=now)
    _approve(rollout, now)
    rollouts.start(rollout, actor=ACTOR, now=now)
    rollouts.carry_on(rollout.pk, now=now)
    rollout.refresh_from_db()
    return rollout


def _approve(rollout: Rollout, now: datetime) -> None:
    """So many devices need a second person."""
    if rollout.state == RolloutState.AWAITING_APPROVAL:
        read = approval.facts(rollout)["submission"]
        digests = {name: read[name] for name in ("manifest_sha256", "plan_digest", "target_digest")}
        rollouts.approve(rollout, actor=SECOND, now=now, **digests)


def _ticks(meter: Meter, rollout: Rollout, devices: int, offers: int, now: datetime) -> None:
    """Ticks while the wave opens, then rounds of tick, publish and confirm."""
    with meter.step("ticks: wave opens") as row:
        seconds = []
        while Job.objects.filter(rollout=rollout).count() < devices:
            seconds.append(_tick(rollout, now))
        row |= _spread(seconds)
    meter.rows["ticks: wave opens"]["most_rows_a_transaction"] = most_rows_a_transaction(Job)
    with meter.step("ticks: offers") as row:
        seconds, published, confirming_s = [], 0, 0.0
        while (done := _confirmed(rollout)) < min(offers, devices):
            now += timedelta(seconds=1)
            seconds.append(_tick(rollout, now))
            published += reconcile.publish_desired()
            began = time.monotonic()
            _confirm(rollout, now)
            confirming_s += time.monotonic() - began
        row |= _spread(seconds) | {"offered": done, "published": published}
        row["confirming_s"] = round(confirming_s, 2)
    row = meter.rows["ticks: offers"]
    busy_s = row["wall_s"] - row["confirming_s"]
    row["offers_per_minute"] = round(row["offered"] / busy_s * 60)
    counts = (
        Job.objects.filter(rollout=rollout).values_list("state").annotate(n=Count("pk")).order_by("state")
    )
    row["jobs"] = {str(state): n for state, n in counts}


def _tick(rollout: Rollout, now: datetime) -> tuple[float, float]:
    """Wall and CPU seconds of a tick."""
    began, used_s = time.monotonic(), _cpu_s() + _database_cpu_s()
    if not ticking.tick(rollout.pk, now):
        raise RuntimeError("a tick did nothing")
    return time.monotonic() - began, _cpu_s() + _database_cpu_s() - used_s


def _database_cpu_s() -> float:
    """CPU seconds of the server process behind our connection, without the helpers it starts for a query.

    A busy machine stretches wall time and not this. 0.0 when the server is on another machine.
    """
    connection.ensure_connection()
    path = Path(f"/proc/{connection.connection.info.backend_pid}/stat")
    stat = path.read_text() if path.exists() else ""
    if "postgres" not in stat:
        return 0.0
    utime, stime = stat.rpartition(")")[2].split()[11:13]
    return (int(utime) + int(stime)) / os.sysconf("SC_CLK_TCK")


def _spread(ticks: list[tuple[float, float]]) -> dict[str, Any]:
    walls, cpus = sorted(wall_s for wall_s, _ in ticks), sorted(cpu_s for _, cpu_s in ticks)
    return {
        "ticks": len(ticks),
        "median_s": round(walls[len(walls) // 2], 3),
        "longest_s": round(walls[-1], 3),
        "median_cpu_s": round(cpus[len(cpus) // 2], 3),
        "longest_cpu_s": round(cpus[-1], 3),
    }


def _confirmed(rollout: Rollout) -> int:
    return Job.objects.filter(rollout=rollout, state=JobState.CONFIRMED).count()


def _confirm(rollout: Rollout, now: datetime) -> None:
    """What reports of success would leave: confirmed jobs and devices that run the candidate."""
    jobs = list(Job.objects.filter(rollout=rollout, state=JobState.OFFERED)[:BATCH])
    ids = [job.device_id for job in jobs]
    move_jobs(jobs, JobState.CONFIRMED, actor=ACTOR, now=now, exposed_at=now, confirmed_at=now)
    DeviceSlot.objects.filter(device_id__in=ids).update(run=rollout.manifest.id16)


def _documents(meter: Meter, devices: int, now: datetime) -> None:
    """Change every device's document, sign and publish all; then the same work's parts alone."""
    ids = [enrolled.device_id(n) for n in range(devices)]
    with meter.step("documents: written") as row:
        for start in range(0, devices, BATCH):
            delivery.set_config(ids[start : start + BATCH], {int(ConfigKey.HEARTBEAT_S): 300}, now=now)
        row["documents"] = devices
    rows = desired_rows.read(min(ALONE, devices))
    with meter.step("documents: signed and published") as row:
        done = 0
        while publishing.is_pending():
            done += reconcile.publish_desired()
            meter.say(f"published {done:,}")
        row["documents"] = done
    signer, identity = keys.online_signer(), installation_id()
    with meter.step("documents: signed alone") as row:
        desired_rows.sign(rows, signer, installation_id=identity)
        row["documents"] = len(rows)
    messages = [(topics.desired(one.device_id), one.message or b"") for one in rows]
    with meter.step("documents: Ed25519 alone") as row:
        for _, message in messages:
            signer.sign(message)
        row["documents"] = len(messages)
    for name, kind in (("published alone", BulkPublisher), ("published by paho", BackendClient)):
        with kind("worker") as client:
            client.connect()
            with meter.step(f"documents: {name}") as row:
                row["documents"] = client.publish_all(messages, deadline_s=ALONE_S)
    for name, row in meter.rows.items():
        if name.startswith("documents"):
            row["per_s"] = round(row["documents"] / row["wall_s"])
            row["per_cpu_s"] = round(row["documents"] / max(row["cpu_s"], 0.001))
            row["cpu_us_each"] = round(row["cpu_s"] / row["documents"] * 1e6, 1)


def environment() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {"cpus": os.cpu_count(), "load": [round(value, 1) for value in os.getloadavg()]}
