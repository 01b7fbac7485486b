"""Devices of rollouts by the state of their newest attempt, without sorting every attempt there is.

A further attempt is made only of a job that has ended, and not of one that confirmed, so a job under way or
confirmed is the newest of its device unless the inventory corrected it afterwards. Those are counted from an
index alone; only the others, few of very many, are asked whether a newer attempt exists. Measured with
20,000 devices in four rollouts: 907 ms for sorting attempts, see `tests.bench.web` for this.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import defaultdict
from collections.abc import Collection
from typing import Final
from uuid import UUID

from django.core.cache import cache
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from redis.exceptions import RedisError

from ota.choices import JOB_TERMINAL, ROLLOUT_TERMINAL, JobState
from ota.models import Job, Rollout, Wave

KEPT_S: Final = 600
"""How long counts of a rollout that ended are kept: only a device's later inventory still corrects a job."""
_ALONE: Final = [str(state) for state in JobState if state not in JOB_TERMINAL or state == JobState.CONFIRMED]
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


def counts_of(waves: Collection[int]) -> Counts:
    """Wave id to job state to devices; a wave without jobs is absent. Two queries.

    Rows are counted and not keys: the index of counts has none, and every job would be read for its own.
    """
    found: dict[int, dict[str, int]] = defaultdict(dict)
    rows = Job.objects.filter(wave__in=list(waves), kind="install").order_by()
    alone = Q(state__in=_ALONE, is_reconciled=False)
    for part in (rows.filter(alone), newest_of(rows.exclude(alone))):
        for wave_id, state, n in part.values_list("wave_id", "state").annotate(n=Count("*")):
            found[wave_id][str(state)] = found[wave_id].get(str(state), 0) + n
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
