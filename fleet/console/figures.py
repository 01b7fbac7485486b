"""The numbers of the overview, in a fixed number of queries however large the fleet is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Count, F, Sum

from fleet import hints
from fleet.console.context import open_alerts
from fleet.devices.models import Device, DeviceSlot, Presence
from fleet.recent import recent
from fleet.telemetry.models import Minute
from ota.choices import ROLLOUT_LIVE
from ota.fleet_samples import day_before, newest_completed
from ota.inventory_figures import devices_by_run
from ota.job_counts import counts_of_rollouts
from ota.models import Manifest, Rollout, Wave

HISTORY = timedelta(hours=24)
STOPPED = 2  # bank flag of a slot that was told to run nothing


@dataclass(frozen=True)
class Running:
    """How many devices run one thing. id16: "" for nothing. model "" and id16 set: unknown to the
    registry.
    """

    id16: str
    count: int
    model: str = ""
    version: str = ""
    seq: int | None = None

    @property
    def label(self) -> str:
        """How the bar names it."""
        if not self.id16:
            return "no model"
        return f"{self.model} {self.version}" if self.model else f"unknown to the registry ({self.id16[:8]}…)"


@dataclass(frozen=True)
class Fleet:
    """Counts over all devices in service. newest: the newest version that completed a rollout, None before
    one.
    """

    devices: int
    online: int
    running: list[Running]
    newest: Running | None

    @property
    def online_ratio(self) -> float | None:
        """Share online, None without devices."""
        return self.online / self.devices if self.devices else None


def fleet_now() -> Fleet:
    """What runs where, from the devices' own last reports (slot 0)."""
    live = Device.objects.filter(retired_at=None)
    presence = dict(live.order_by().values_list("presence").annotate(n=Count("*")))
    total = sum(presence.values())
    counts = devices_by_run(DeviceSlot.objects.filter(slot=0, run__gt=""))
    rows = Manifest.objects.filter(mid__in={run[:16] for run in counts}).select_related("version")
    rows = rows.only("id", "mid", "seq", "version__model_id", "version__version")
    known = {row.id16: row for row in rows}
    running = [
        Running(run, n, known[run].version.model_id, known[run].version.version, known[run].seq)
        if run in known
        else Running(run, n)
        for run, n in counts.items()
    ]
    running.sort(key=lambda item: (not item.model, item.model, -(item.seq or 0), item.id16))
    if (idle := total - sum(counts.values())) > 0:
        running.append(Running("", idle))
    return Fleet(total, presence.get(Presence.ONLINE, 0), running, _newest(counts))


def _newest(counts: dict[str, int]) -> Running | None:
    row = newest_completed()
    if row is None:
        return None
    version = row.version
    return Running(row.id16, counts.get(row.id16, 0), version.model_id, version.version, row.seq)


@dataclass(frozen=True)
class Alerts:
    """Alerts that are open and speak for themselves, and by hour over the last day those not resolved."""

    open: int
    hours: list[tuple[datetime, float | None]]


def alerts(now: datetime) -> Alerts:
    """Open alerts now, and by hour; an alert folded into another does not count."""
    since = (now - HISTORY).replace(minute=0, second=0, microsecond=0)
    hours = [since + timedelta(hours=index) for index in range(1, 25)] + [now]
    with connection.cursor() as cursor:
        cursor.execute(
            # those of the last day first: each hour then passes them, and not every alert there ever was
            "WITH a AS MATERIALIZED (SELECT first_seen_at, resolved_at FROM alerts_alert"
            " WHERE folded_into_id IS NULL AND (resolved_at IS NULL OR resolved_at > %s))"
            " SELECT h.n, count(a.first_seen_at) FROM unnest(%s::timestamptz[]) WITH ORDINALITY AS h (at, n)"
            " LEFT JOIN a ON a.first_seen_at <= h.at AND (a.resolved_at IS NULL OR a.resolved_at > h.at)"
            " GROUP BY h.n ORDER BY h.n",
            [since, hours],
        )
        found = [float(row[1]) for row in cursor.fetchall()]
    return Alerts(open_alerts(), list(zip(hours, found, strict=True)))


@dataclass(frozen=True)
class Day:
    """Curves of the last 24 hours from samples, shares in [0, 1], None where nobody counted."""

    online: list[tuple[datetime, float | None]]
    on_newest: list[tuple[datetime, float | None]]


def day(now: datetime) -> Day:
    """The last day of the fleet, a point a sample. A sample of another newest version counts as it was."""
    rows = day_before(now)
    return Day(
        [(row.at, row.online / row.devices if row.devices else None) for row in rows],
        [(row.at, row.on_newest / row.devices if row.devices and row.newest else None) for row in rows],
    )


@dataclass(frozen=True)
class Anomalies:
    """Anomalous inferences of the last hour and, hour by hour, of the last day. ratio None: no inference."""

    ratio: float | None
    inferences: int
    hours: list[tuple[datetime, float | None]]


def anomalies(now: datetime) -> Anomalies:
    """Share of inferences over the anomaly threshold, from minute sums of all model runs."""
    since = (now - HISTORY).replace(minute=0, second=0, microsecond=0)
    rows = (
        Minute.objects.filter(minute__gte=since)
        .values("minute__date", "minute__hour")
        .order_by()
        .annotate(wrong=Sum("anom_n"), all=Sum("n"))
    )
    by_hour = {(row["minute__date"], row["minute__hour"]): (row["wrong"], row["all"]) for row in rows}
    hours = []
    for index in range(25):
        at = since + timedelta(hours=index)
        wrong, n = by_hour.get((at.date(), at.hour), (0, 0))
        hours.append((at, wrong / n if n else None))
    last = Minute.objects.filter(minute__gte=now - timedelta(hours=1)).aggregate(
        wrong=Sum("anom_n"), n=Sum("n")
    )
    n = last["n"] or 0
    return Anomalies((last["wrong"] or 0) / n if n else None, n, hours)


Waves = dict[str, list[dict[str, Any]]]


def recent_waves(rollouts: list[Rollout], now: datetime) -> tuple[Waves, datetime]:
    """`wave_counts`, and of when they are: now, or a moment ago when they take long. A verb has them counted
    anew.
    """
    said = ",".join(f"{row.pk}:{row.rev}" for row in rollouts)
    live = [row for row in rollouts if row.state in ROLLOUT_LIVE]
    return recent(
        f"waves:{hashlib.sha256(said.encode()).hexdigest()}",
        lambda _at: wave_counts(rollouts),
        now=now,
        topic=hints.rollout(live[0].pk) if live else "",
    )


def wave_counts(rollouts: list[Rollout]) -> Waves:
    """Waves of some rollouts with devices per job state: {rollout id: [{"n", "state", "size", "counts"},
    ...]}.
    """
    waves = list(Wave.objects.filter(rollout__in=rollouts).order_by("rollout_id", F("n")))
    counts = counts_of_rollouts(rollouts, waves)
    found: Waves = {}
    for wave in waves:
        entry = {"n": wave.n, "state": wave.state, "size": wave.size, "counts": counts.get(wave.pk, {})}
        found.setdefault(str(wave.rollout_id), []).append(entry)
    return found
