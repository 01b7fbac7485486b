"""Devices of rollouts by the state of their newest attempt, without sorting every attempt there is.

A further attempt is made only of a job that has ended, and not of one that confirmed, so a job under way or
confirmed is the newest of its device unless the inventory corrected it afterwards. Those are counted from an
index alone; only the others, few of very many, are asked whether a newer attempt exists. Measured with
20,000 devices in four rollouts: 907 ms for sorting attempts, see `tests.bench.web` for this.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from django.core.cache import cache
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from redis.exceptions import RedisError

from ota.choices import JOB_TERMINAL, ROLLOUT_TERMINAL, JobState
from ota.models import Job, Rollout, Wave

KEPT_S: Final = 600
"""How long counts of a rollout that ended are kept: only a device's later inventory still corrects a job."""
_ALONE: Final = [str(state) for state in JobState if state not in JOB_TERMINAL or state == JobState.CONFIRMED]
_ENDED: Final = [str(state) for state in JobState if str(state) not in _ALONE]
Counts = dict[int, dict[str, int]]


def newest_of(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Of some install jobs those that are the newest attempt of their device in their rollout."""
    newer = Job.objects.filter(
        device_id=OuterRef("device_id"),
        slot=OuterRef("slot"),
        rollout_id=OuterRef("rollout_id"),
        kind="install",
        attempt__gt=OuterRef("attempt"),
    )
    return jobs.filter(Q(state__in=_ALONE, is_reconciled=False) | ~Exists(newer), kind="install")


def devices_by(jobs: QuerySet[Job], *names: str) -> Counter[tuple[Any, ...]]:
    """Devices of some install jobs by what their newest attempt has in these fields or annotations.

    Two statements, a third when the inventory corrected jobs. Rows are counted and not keys: the index of
    counts has none, and every job would be read for its own.
    """
    jobs, found, is_corrected = jobs.filter(kind="install").order_by(), Counter[tuple[Any, ...]](), False
    alone = jobs.filter(state__in=_ALONE).values_list(*names, "is_reconciled").annotate(n=Count("*"))
    for *values, corrected, n in alone:
        is_corrected = is_corrected or corrected
        if not corrected:
            found[tuple(values)] += n
    parts = [jobs.filter(state__in=_ENDED)]
    if is_corrected:
        parts.append(jobs.filter(state__in=_ALONE, is_reconciled=True))
    for part in parts:
        for *values, n in newest_of(part).values_list(*names).annotate(n=Count("*")):
            found[tuple(values)] += n
    return found


def counts_of(waves: Collection[int]) -> Counts:
    """Wave id to job state to devices; a wave without jobs is absent."""
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for (wave_id, state), n in devices_by(
        Job.objects.filter(wave__in=list(waves)), "wave_id", "state"
    ).items():
        found[wave_id][str(state)] = n
    return dict(found)


def counts_of_rollouts(rollouts: Collection[Rollout], waves: Collection[Wave]) -> Counts:
    """`counts_of` the waves of some rollouts; those of rollouts that have ended may be KEPT_S old.

    The cache saves time and nothing else: without it everything is counted.
    """
    over = {row.pk for row in rollouts if row.state in ROLLOUT_TERMINAL}
    keys = {row.pk: f"job-counts:{row.pk}:{row.rev}" for row in rollouts}
    names = {keys[pk]: pk for pk in over}
    kept = _cached(list(names))
    known: set[UUID] = {names[name] for name in kept}
    found = counts_of([wave.pk for wave in waves if wave.rollout_id not in known])
    fresh: dict[str, Counts] = {}
    for wave in waves:
        if wave.rollout_id in known:
            found |= kept[keys[wave.rollout_id]]
        elif wave.rollout_id in over:
            of_rollout = fresh.setdefault(keys[wave.rollout_id], {})
            of_rollout[wave.pk] = found.setdefault(wave.pk, {})
    with contextlib.suppress(RedisError):  # counted again next time
        for name, counts in fresh.items():
            cache.set(name, counts, _kept_s(name))
    return found


def _kept_s(name: str) -> int:
    """Seconds for which an entry is kept, up to KEPT_S: what one list put there together does not leave
    together, and no later list counts all of it at once.
    """
    half = KEPT_S // 2
    return half + zlib.crc32(name.encode()) % half


def _cached(names: list[str]) -> dict[str, Counts]:
    try:
        return cache.get_many(names) if names else {}
    except RedisError:
        return {}
