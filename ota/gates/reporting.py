"""Missing telemetry as evidence: silence never counts as health (rollouts.md 10.4).

The share of expected windows that arrived is a metric every gated plan has. A pair with a silent partner is
dropped from the other metrics and counted there; here it enters with what it sent. Beside it stands a rule
that looks at the wave alone: more than 20 % of exposed devices without half of their windows, and nothing
passes.

What is expected follows from the clock and the device's interval, never from what arrived, so a telemetry gap
(`fleet.telemetry.gaps`), open or lost, is missing here without a further rule: its windows are not there to
be counted. One that is repaired before the pair matures counts as if it had never been.
"""

from __future__ import annotations

from collections.abc import Mapping

from ota.choices import Verdict
from ota.gates.measure import Measure
from ota.gates.rows import Row, make_row

SILENT_LIMIT = 0.20
"""Share of exposed devices without half of their expected telemetry above which nothing passes."""
WEIGHT = 0.2
"""Part of the false-halt budget that the implied reporting metric takes when a plan does not name it."""
MEASURES = (Measure("reporting", "", "Telemetry reported", promote_margin=0.05, has_history=False),)


def telemetry_row(telemetry: Mapping[str, int]) -> Row:
    """Missing evidence is never a pass: too many silent devices keep the wave inconclusive."""
    exposed, silent = telemetry["exposed"], telemetry["silent"]
    share = silent / exposed if exposed else None
    is_quiet = share is not None and share <= SILENT_LIMIT
    text = (
        f"{silent} of {exposed} exposed devices sent less than half of their telemetry"
        if exposed
        else "no comparison window has ended yet"
    )
    verdict = Verdict.PASS if is_quiet else Verdict.INCONCLUSIVE
    row = make_row("telemetry", "Silent devices", verdict, text, now=share, limit=SILENT_LIMIT, n=exposed)
    return row | {"missing": silent}
