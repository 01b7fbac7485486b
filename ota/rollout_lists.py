"""Rollouts as lists name them: with the version they roll out, and without what only its own page prints.

A manifest has its message, leaf hashes and golden vectors, a version the inspector's whole report, a rollout
its plan and up to 10,000 named devices: 50 of each are megabytes that the database sends and this process
parses, for the sake of 50 names.
"""

from __future__ import annotations

from typing import Final

from django.db.models import QuerySet

from ota.models import Job, Rollout

MANIFEST_BYTES: Final = (
    *(f"manifest__{name}" for name in ("message", "leaves", "blob")),
    *(f"manifest__version__{name}" for name in ("inspection", "probe", "golden", "hints", "notes")),
)
"""Of a rollout's manifest and version: what is large, and seldom asked for. It comes when it is."""
_PLANS: Final = ("plan", "target", "summary")


def listed() -> QuerySet[Rollout]:
    """Every rollout, newest first, with its manifest and version."""
    return Rollout.objects.select_related("manifest__version").defer(*_PLANS, *MANIFEST_BYTES)


def jobs_with_rollout(rows: QuerySet[Job]) -> QuerySet[Job]:
    """Some jobs with their rollout, as `listed` has it."""
    unread = [f"rollout__{name}" for name in (*_PLANS, *MANIFEST_BYTES)]
    return rows.select_related("rollout__manifest__version").defer(*unread)
