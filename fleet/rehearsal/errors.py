"""What can be wrong with a rehearsal before it starts, and while it runs."""

from __future__ import annotations


class RehearsalError(Exception):
    """A rehearsal cannot be held.

    code: `not_found`, `ambiguous` (a name that several rollouts have), `no_targets`, `too_small` (cohorts
    that could not pass a gate), `validation`; while it runs: `refused` (the copy does not pass preflight),
    `not_online`, `went_otherwise`. is_usage: the call is wrong, nothing was started.
    """

    def __init__(self, code: str, text: str, *, is_usage: bool = True) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.is_usage = is_usage
