"""Which failures of a device say something about the model, about delivery, or about our own preflight."""

from __future__ import annotations

SECURITY = frozenset({"signature"})
COMPAT = frozenset(
    {
        "target_class",
        "too_large",
        "arena_too_small",
        "op_missing",
        "schema",
        "io_contract",
        "firmware_too_old",
        "unknown_action",
        "not_in_bank",
    }
)
POLICY = frozenset({"expired", "sequence", "floor", "trust"})
MODEL = frozenset({"load_failed", "selftest_mismatch", "latency_budget", "crash_loop", "watchdog", "no_link"})
FIRST_WAVE = frozenset({"load_failed", "selftest_mismatch"})
"""What preflight proved impossible: one of them in the first wave halts for a person."""
CLASSES = ("model", "delivery", "compat", "policy", "security")
RETRYABLE_ONCE = POLICY | {"flash_io"}


def failure_class(state: str, code: str) -> str:
    """One of CLASSES for a job that ended badly, "" for one that did not.

    state: a job state. A candidate that a trial ended is a `model` failure whatever the code; a device that
    went silent before its trial is `delivery`; one that went silent in its trial is no failure but missing
    evidence.
    """
    if state == "self_reverted":
        return "model"
    if state == "timed_out":
        return "" if code == "trial" else "delivery"
    if state not in ("rejected", "failed"):
        return ""
    for name, codes in (("security", SECURITY), ("compat", COMPAT), ("policy", POLICY), ("model", MODEL)):
        if code in codes:
            return name
    return "delivery"
