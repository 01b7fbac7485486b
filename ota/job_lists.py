"""The jobs of a rollout as lists show them: page by page, in the order of their ids, whatever the filter."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Final

from django.db.models import QuerySet

from ota.models import Job, Rollout

_SKEW: Final = timedelta(hours=1)
_MS_BITS: Final = 80
"""Bits of a UUIDv7 below its milliseconds."""


def jobs_of(rollout: Rollout) -> QuerySet[Job]:
    """Jobs of a rollout, every attempt, to be read in the order of `id`; each knows its wave.

    The lower bound says nothing new: ids begin with the time they were made at, and no job is older than its
    rollout (an hour is left for clocks that differ). It keeps a list quick whichever index is taken. The
    database believes that a rollout's jobs are strewn over all ids, so it may walk the primary key until it
    has met a page of them; the newest rollout's are the last ones, and without the bound such a walk passes
    every job there ever was: a page of 50 among 1 M jobs took either 2 ms or 300, as statistics fell.
    Waves come by a query of their own, so that no join gives it further choices.
    """
    return Job.objects.filter(rollout=rollout, pk__gte=_earliest(rollout.pk)).prefetch_related("wave")


def _earliest(rollout_id: uuid.UUID) -> uuid.UUID:
    made_ms = rollout_id.int >> _MS_BITS
    return uuid.UUID(int=max(0, made_ms - int(_SKEW.total_seconds() * 1000)) << _MS_BITS)
