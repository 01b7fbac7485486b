"""What a quality gate measures: one `Measure` per metric and kind, each in the file named after its metric.

All outcomes are one number per device in [0, 1], higher is better, so that one comparison serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A metric of one kind, and what its comparison may do.

    promote_margin: default, share in [0, 1]. may_pass: its proof of non-inferiority counts, and is required.
    may_roll_back: its proof of harm may roll back without a person. has_history: a device's own past is
    subtracted. hints: names of manifest hints (`ota.hints`) that must be the same in both arms for it to be
    comparable; a hint in `lenient` may also be missing on one side. refusal: why this version cannot measure
    it, "" when it does. flag: printed wherever its figures are shown.
    """

    metric: str
    kind: str
    label: str
    promote_margin: float = 0.03
    may_pass: bool = True
    may_roll_back: bool = True
    has_history: bool = True
    hints: tuple[str, ...] = ()
    lenient: tuple[str, ...] = ()
    refusal: str = ""
    flag: str = ""

    @property
    def key(self) -> str:
        """`accuracy:proxy`, `anomaly`: how baselines, evidence and rows name it."""
        return f"{self.metric}:{self.kind}" if self.kind else self.metric
