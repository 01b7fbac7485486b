"""What a form that knows less than a plan does with the rest: it keeps it, and says so.

A plan that was made over REST has limits, timers and weights that the form does not show. Whoever changes it
in the form changes what they touched, and nothing else: a field that still says what it said is not read
back, so neither rounding nor a default finds its way into the stored plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final

from fleet.console.plan_fields import duration_text, plain
from ota.gates.catalogue import METRICS, measure_of
from ota.gates.reporting import WEIGHT as REPORTING_WEIGHT
from ota.plan import Metric, Plan

SHOWN: Final = frozenset(
    {
        *("waves", "control", "max_in_flight", "offers_per_minute", "supersede", "requires_approval"),
        *("metrics", "accept_proxy", "by_class", "r_prove", "min_pairs", "on_fail", "on_inconclusive"),
        *("settle_s", "window_s", "soak_s", "max_soak_s", "trial_deadline_s"),
        *("rollback_to", "rollback_reason", "start_at", "zone", "windows", "late", "tail_days"),
    }
)
"""Fields of a plan that the form has."""
_MARGINS: Final = ("promote_margin", "halt_margin")
_READ_FROM: Final[Mapping[str, tuple[str, ...]]] = {
    "start_at": ("start_at", "zone"),
    "metrics": ("metrics", *_MARGINS),
}


def merged(stored: Plan, said: Mapping[str, Any], changed: Collection[str]) -> dict[str, Any]:
    """The stored plan with what a person changed, as `Plan.parse` reads it.

    said: the plan that the form alone gives. changed: names of the form's fields that differ from what the
    form showed.
    """
    kept = stored.to_json()
    for name, value in said.items():
        if set(_READ_FROM.get(name, (name.removesuffix("_s"),))).isdisjoint(changed):
            continue
        kept[name] = value
        if name == "metrics":
            kept[name] = [asdict(row) for row in _metrics(stored.metrics, value, changed)]
    return kept


def beyond(plan: Plan) -> list[str]:
    """What a plan says that the form cannot, as `min_reach 0.99`; [] for one that the form could give."""
    found = []
    for item in fields(Plan):
        value, usual = getattr(plan, item.name), item.default
        if item.name in SHOWN or item.name == "timers" or value == usual:
            continue
        found.append(f"{item.name.removesuffix('_s')} {_words(item.name, value)}")
    found += [f"timer of {name} {duration_text(seconds)}" for name, seconds in plan.timers.items()]
    return [*found, *(_metric_words(row) for row in _unlike_the_form(plan.metrics))]


def _metrics(
    stored: Sequence[Metric], said: Sequence[Mapping[str, Any]], changed: Collection[str]
) -> Iterator[Metric]:
    """The chosen metrics. Those that were there keep their kind, and what was not changed of margins and
    weight; another choice shares the weight equally.
    """
    margins = {name: said[0][name] for name in _MARGINS if name in changed} if said else {}
    rows: list[Metric] = []
    for one in said:
        mine = [row for row in stored if row.metric == one["metric"]]
        rows += [replace(row, **margins) for row in mine] or [Metric(**one)]
    reporting = [row for row in stored if row.metric == "reporting"] if rows else []
    is_same = len(rows) + len(reporting) == len(stored) and all(
        any(row.key == other.key for other in stored) for row in rows
    )
    left = 1.0 - sum(row.weight for row in reporting)
    for row in rows:
        yield row if is_same else replace(row, weight=left / len(rows))
    yield from reporting


def _unlike_the_form(metrics: Sequence[Metric]) -> list[Metric]:
    """Metrics whose kind, margins or weight the form has no place for."""
    rows = [row for row in metrics if row.metric != "reporting"]
    usual = Metric("reporting", "", measure_of("reporting", "").promote_margin, 0.0, REPORTING_WEIGHT)
    left = 1.0 - sum(row.weight for row in metrics if row.metric == "reporting")
    found = [row for row in metrics if row.metric == "reporting" and not _alike(row, usual)]
    for row in rows:
        like = replace(rows[0], metric=row.metric, kind=METRICS[row.metric][0], weight=left / len(rows))
        if not _alike(row, like):
            found.append(row)
    return found


def _alike(row: Metric, other: Metric) -> bool:
    is_near = abs(row.weight - other.weight) < 1e-6
    return is_near and replace(row, weight=other.weight) == other


def _metric_words(row: Metric) -> str:
    name = f"{row.metric} ({row.kind})" if row.kind else row.metric
    margins = f"passes within {plain(row.promote_margin * 100)}, halts beyond {plain(row.halt_margin * 100)}"
    return f"{name} {margins} points, weight {plain(row.weight)}"


def _words(name: str, value: Any) -> str:
    if name.endswith("_s"):
        return duration_text(value)
    return plain(value) if isinstance(value, float) else str(value)
