"""What rollouts, waves, jobs and versions announce to people outside (`fleet.announcing`), and in what words.

Everything here is called in the transaction of the change, and asks first whether anybody wants to hear of
it: a tick of an installation without webhooks pays one small query where a rollout or a wave changes, one for
all the jobs of a transaction that end badly, and nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from fleet import announcing
from fleet.accounts.audit import Actor
from fleet.announcing import JOB_FAILED, MODEL_SIGNED, ROLLOUT_CHANGED, WAVE_VERDICT, Announcement, Fact
from ota.choices import JobState, WaveState
from ota.gates.failures import failure_class
from ota.models import Evidence, Job, Manifest, Rollout, Wave

BAD_ENDS: Final = frozenset({JobState.REJECTED, JobState.FAILED, JobState.SELF_REVERTED, JobState.TIMED_OUT})
"""States in which a job counts as one that did not work."""
VERDICTS: Final = frozenset(
    {WaveState.PASSED, WaveState.FAILED, WaveState.INCONCLUSIVE, WaveState.OVERRIDDEN}
)
"""States of a wave that say what became of it; a wave that is cancelled got no verdict."""
MOST_CHARS: Final = 500


def rollout_changed(
    rollout: Rollout, to: str, *, rev: int, actor: Actor, now: datetime, reason: str, halted_on: UUID | None
) -> None:
    """Announce that a rollout left the state it shows for another. rev: its revision there."""
    if not announcing.is_asked(ROLLOUT_CHANGED):
        return
    data = {
        **_named(rollout),
        "kind": rollout.kind,
        "slot": rollout.slot,
        "from": str(rollout.state),
        "to": str(to),
        "reason": reason[:MOST_CHARS],
        "evidence": str(halted_on) if halted_on else None,
        "by": actor.name,
    }
    announcing.announce(
        Announcement(ROLLOUT_CHANGED, "rollout", str(rollout.pk), rev, now, data, *_links(rollout.pk))
    )


def wave_verdict(
    wave: Wave, to: str, *, actor: Actor, now: datetime, reason: str, values: Mapping[str, Any]
) -> None:
    """Announce the verdict on a wave. values: what the move has set, on top of what `wave` shows.

    A wave that is judged again while evidence comes in, and is inconclusive still, said so before: it is
    announced once.
    """
    verdict = str(values.get("verdict", wave.verdict))
    is_news = to != WaveState.INCONCLUSIVE or wave.verdict != verdict
    if to not in VERDICTS or not is_news or not announcing.is_asked(WAVE_VERDICT):
        return
    rollout = Rollout.objects.select_related("manifest__version").get(pk=wave.rollout_id)
    rev = Wave.objects.values_list("rev", flat=True).get(pk=wave.pk)
    newest = Evidence.objects.filter(wave=wave).order_by("-at").values_list("pk", flat=True).first()
    data = {
        "rollout": {"id": str(rollout.pk), **_named(rollout)},
        "wave": wave.n,
        "waves": rollout.waves.count(),
        "from": str(wave.state),
        "to": str(to),
        "verdict": verdict,
        "reasons": list(values.get("reasons", wave.reasons)),
        "reason": reason[:MOST_CHARS],
        "evidence": str(newest) if newest else None,
        "by": actor.name,
    }
    announcing.announce(
        Announcement(WAVE_VERDICT, "wave", f"{wave.rollout_id}/{wave.n}", rev, now, data, *_links(rollout.pk))
    )


class BadEnds:
    """Jobs that end badly in one transaction: noted one by one, told of together."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._is_asked: bool | None = None
        self._ended: list[tuple[Job, dict[str, Any]]] = []

    def add(self, job: Job, to: str, values: Mapping[str, Any]) -> None:
        """Note a move of a job before it is applied; one that is no bad end is left out."""
        if to not in BAD_ENDS:
            return
        code, again = str(values.get("code", job.code)), values.get("retry_at", job.retry_at)
        item = {
            "job": str(job.pk),
            "device": job.device_id,
            "kind": job.kind,
            "slot": job.slot,
            "attempt": job.attempt,
            "from": str(job.state),
            "to": str(to),
            "code": code,
            "class": failure_class(to, code) or "silent",
            "retry_at": again.isoformat() if again else None,
        }
        self._ended.append((job, item))

    def tell(self) -> None:
        """Hand over what was noted since the last call. Whether anybody asks is looked up once."""
        ended, self._ended = self._ended, []
        if not ended:
            return
        if self._is_asked is None:
            self._is_asked = announcing.is_asked(JOB_FAILED)
        if self._is_asked:
            announcing.note(_facts(ended, self._now))


def model_signed(row: Manifest, *, classes: Sequence[str], actor: Actor, now: datetime) -> None:
    """Announce a signed manifest of a version. Its `seq` rises with each one of a model, so it is the rev."""
    if not announcing.is_asked(MODEL_SIGNED):
        return
    version = row.version
    data = {
        "model": version.model_id,
        "version": version.version,
        "seq": row.seq,
        "floor": row.floor,
        "slot": row.slot,
        "manifest": row.pk,
        "mid": row.mid,
        "classes": list(classes),
        "kids": row.kids,
        "by": actor.name,
    }
    path = f"/models/{version.model_id}/{version.version}"
    api = f"/api/v1/models/{version.model_id}/versions/{version.version}"
    announcing.announce(Announcement(MODEL_SIGNED, "version", str(version.pk), row.seq, now, data, path, api))


def _facts(ended: Sequence[tuple[Job, dict[str, Any]]], now: datetime) -> list[Fact]:
    rollouts = Rollout.objects.select_related("manifest__version").in_bulk(
        {job.rollout_id for job, _ in ended}
    )
    waves = dict(Wave.objects.filter(pk__in={job.wave_id for job, _ in ended}).values_list("pk", "n"))
    facts = []
    for job, item in ended:
        rollout = rollouts[job.rollout_id]
        about = {"rollout": {"id": str(rollout.pk), **_named(rollout)}}
        page, api = (f"{path}/jobs" for path in _links(rollout.pk))
        item |= {"wave": waves[job.wave_id]}
        facts.append(Fact(JOB_FAILED, "jobs", str(rollout.pk), now, item["code"], item, about, page, api))
    return facts


def _named(rollout: Rollout) -> dict[str, Any]:
    version = rollout.manifest.version
    return {"name": rollout.name, "model": version.model_id, "version": version.version}


def _links(rollout_id: UUID | str) -> tuple[str, str]:
    return f"/rollouts/{rollout_id}", f"/api/v1/rollouts/{rollout_id}"
