"""Accuracy, in four kinds that are never merged into one number: each proves something else.

golden: signed vectors run on the device; right kernels and intact bytes, no word on drift: a hard gate
(`ota.gates.golden`), never a metric. delayed: labels joined later; field accuracy on labelled samples.
proxy: corrections and actuator outcomes; biased, so it passes a gate only when the plan says so. estimate:
mean top score; proves nothing alone (an offset fault took accuracy from .81 to .31 while confidence rose),
so it halts for a person and never passes or rolls back.
"""

from __future__ import annotations

from ota.gates.measure import Measure

_SAME = ("labels", "front_end", "classes")

MEASURES = (
    Measure(
        "accuracy",
        "proxy",
        "Accuracy (proxy labels)",
        hints=_SAME,
        lenient=_SAME,
        flag="proxy labels are biased",
    ),
    Measure(
        "accuracy",
        "delayed",
        "Accuracy (delayed labels)",
        hints=_SAME,
        lenient=_SAME,
        refusal="labels that arrive later are not stored by this version",
    ),
    Measure(
        "accuracy",
        "golden",
        "Accuracy (golden vectors)",
        may_pass=False,
        refusal="golden vectors are a hard gate of every wave; they need no metric",
    ),
    Measure(
        "accuracy",
        "estimate",
        "Accuracy (estimate: mean top score)",
        may_pass=False,
        may_roll_back=False,
        hints=_SAME,
        lenient=_SAME,
        flag="an estimate: halts for a person, never passes",
    ),
)
