"""The numbers of the overview, in a fixed number of queries however large the fleet is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F, Sum

from fleet.devices.models import Device, DeviceSlot, Presence
from fleet.telemetry.models import Minute
from ota.choices import RolloutState
from ota.models import Job, Manifest, Rollout, Wave

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
    presence = dict(live.order_by().values_list("presence").annotate(n=Count("pk")))
    total = sum(presence.values())
    slots = DeviceSlot.objects.filter(device__retired_at=None, slot=0).exclude(run="")
    counts = dict(slots.order_by().values_list("run").annotate(n=Count("pk")))
    rows = Manifest.objects.filter(mid__in={run[:16] for run in counts}).select_related("version")
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
    done = Rollout.objects.filter(state=RolloutState.COMPLETED, slot=0, finished_at__isnull=False)
    row = done.select_related("manifest__version").order_by("-manifest__seq", "-finished_at").first()
    if row is None:
        return None
    version = row.manifest.version
    id16 = row.manifest.id16
    return Running(id16, counts.get(id16, 0), version.model_id, version.version, row.manifest.seq)


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


def wave_counts(rollouts: list[Rollout]) -> dict[str, list[dict[str, object]]]:
    """Waves of some rollouts with devices per job state: {rollout id: [{"n", "state", "size", "counts"},
    ...]}.
    """
    ids = [row.pk for row in rollouts]
    newest = Job.objects.filter(rollout__in=ids, kind="install")
    newest = newest.order_by("rollout_id", "device_id", "-attempt").distinct("rollout_id", "device_id")
    rows = Job.objects.filter(pk__in=newest.values("pk")).order_by().values_list("wave_id", "state")
    counts: dict[int, dict[str, int]] = {}
    for wave_id, state, n in rows.annotate(n=Count("pk")):
        counts.setdefault(wave_id, {})[str(state)] = n
    found: dict[str, list[dict[str, object]]] = {}
    for wave in Wave.objects.filter(rollout__in=ids).order_by("rollout_id", F("n")):
        entry = {"n": wave.n, "state": wave.state, "size": wave.size, "counts": counts.get(wave.pk, {})}
        found.setdefault(str(wave.rollout_id), []).append(entry)
    return found
