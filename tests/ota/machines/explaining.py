"""`explain` answers for any device in every state reached: a blocker, a next step, or how it ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ota.choices import JOB_TERMINAL, ROLLOUT_TERMINAL
from ota.explain import SENTENCES, explain
from ota.models import Rollout
from tests.ota.machines.watching import Seen


class Explained:
    """Asks once for each combination of states it meets, so that asking costs little."""

    def __init__(self) -> None:
        self._asked: set[Any] = set()

    def check(self, seen: Seen, device_ids: list[str], *, now: datetime) -> None:
        """Explain what is new. Raises AssertionError for an answer that helps nobody."""
        newest: dict[tuple[Any, str], Any] = {}
        for job in sorted(seen.now.jobs.values(), key=lambda job: job.attempt):
            newest[job.rollout, job.device] = job
        for pk, rollout in seen.now.rollouts.items():
            arms = {row.device: (row.arm, row.wave) for row in seen.now.members.get(pk, ())}
            for device in device_ids:
                job = newest.get((pk, device))
                arm, wave = arms.get(device, ("", 0))
                wave_row = seen.now.waves.get((pk, wave))
                about = (rollout.state, rollout.started_at is None, arm, wave_row and wave_row.state)
                about += (None,) if job is None else (job.kind, job.state, job.code, job.retry_at is None)
                if about not in self._asked:
                    self._asked.add(about)
                    check_answer(rollout, device, explain(rollout, device, now=now))


def check_answer(rollout: Rollout, device: str, answer: dict[str, Any] | None) -> None:
    """An answer has its code and sentence, promises nothing that cannot come, and leaves no one asking."""
    assert answer is not None, device
    where = f"{rollout.state}, {answer}"
    assert answer["code"] in SENTENCES, where
    assert answer["sentence"].endswith("."), where
    has_ended = answer["job"] is not None and answer["job"]["state"] in JOB_TERMINAL
    assert answer["blockers"] or answer["next"] or has_ended, where
    assert all(blocker["code"] in SENTENCES and blocker["sentence"] for blocker in answer["blockers"]), where
    if rollout.state in ROLLOUT_TERMINAL:
        assert answer["next"] is None, f"an ended rollout promises something: {where}"
        assert answer["code"] not in ("retry", "concurrency_cap", "not_started"), where
