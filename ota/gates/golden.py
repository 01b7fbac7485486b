"""Golden vectors that run on the device after the swap and on demand: right kernels, intact bytes."""

from __future__ import annotations

from collections.abc import Mapping

from ota.gates.install import wilson_row
from ota.gates.rows import Row


def golden_row(golden: Mapping[str, int], limit: float) -> Row:
    """Confirmed devices whose newest self-test, or a report since, disagrees with the signed vectors.

    golden: {"n": devices that ran them on the candidate, "k": of them with a mismatch}. Hard: may fail a
    wave; passing it proves nothing about drift. limit: the plan's for failures of the model.
    """
    n, k = golden["n"], golden["k"]
    return wilson_row("golden", "Golden vectors disagree", k, n, limit, f"{k} of {n} devices after the swap")
