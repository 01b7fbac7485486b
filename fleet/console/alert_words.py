"""What an alert rests on, in a sentence, and what it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from fleet.alerts import kinds
from fleet.alerts.kinds import KINDS
from fleet.alerts.models import Alert
from fleet.console import drift_words
from fleet.console.templatetags.console import duration, ms, num, percent, size

Evidence = Mapping[str, Any]


def _count(one: str, many: str, limit: str) -> Callable[[Evidence], str]:
    def say(e: Evidence) -> str:
        n = e["value"]
        return f"{num(n)} {one if n == 1 else many} within 1 h; it fires {limit} {num(e['limit'])}"

    return say


def _anomalies(e: Evidence) -> str:
    return (
        f"{percent(e['value'])} of the inferences in the last {e['n']} windows were anomalous; in at least "
        f"{kinds.WINDOWS_FIRING} of them the share is above {percent(e['limit'])} for certain (99 %)"
    )


def _heap(e: Evidence) -> str:
    return (
        f"Free memory fell to {size(int(e['value']))}; in at least {kinds.WINDOWS_FIRING} of the last "
        f"{e['n']} windows it was below {size(int(e['limit']))}"
    )


def _accuracy(e: Evidence) -> str:
    return (
        f"Proxy accuracy is {percent(e['value'])}, at best {percent(e['high'])} (95 %), over "
        f"{num(e['n_devices'])} devices and {num(e['n'])} labels; it was {percent(e['usual'])} in the week "
        f"before, and fires below {percent(e['limit'])}"
    )


def _latency(e: Evidence) -> str:
    return (
        f"An inference takes {ms(e['value'])} at p95 over {num(e['n_devices'])} devices and {num(e['n'])} "
        f"inferences; it took {ms(e['usual'])} in the week before, and fires above {ms(e['limit'])}"
    )


def _drift(e: Evidence) -> str:
    return (
        f"In at least {kinds.WINDOWS_FIRING} of the last {e['n']} sketches a statistic was beyond its limit, "
        f"up to {e['value']:.1f} times of it; it fires above {e['limit']:g} times"
    )


def _silent(e: Evidence) -> str:
    return f"No message for {duration(e['value'])}; it fires after {duration(e['limit'])}"


def _gap(e: Evidence) -> str:
    what = "gap is" if e["n"] == 1 else "gaps are"
    age, limit = duration(e["value"]), duration(e["limit"])
    return f"{num(e['n'])} {what} open, the oldest for {age}; it fires after {limit}"


def _lag(e: Evidence) -> str:
    what = (
        f"It has said nothing for {duration(e['value'])}"
        if e["is_silent"]
        else f"Its oldest of {num(e['n'])} messages in hand is not acknowledged for {duration(e['value'])}"
    )
    return f"{what}; it fires after {duration(e['limit'])}"


def _cold(e: Evidence) -> str:
    days = "day" if e["n"] == 1 else "days"
    named = ", ".join(e["days"])
    more = ", ..." if e["n"] > len(e["days"]) else ""
    limit = f"it fires from {e['limit']:g}"
    return (
        f"{num(e['n'])} {days} could not become Parquet ({named}{more}): {e['problem'].rstrip('.')}; {limit}"
    )


def _refused(e: Evidence) -> str:
    codes = ", ".join(f"{code} {num(n)}" for code, n in e["codes"])
    named = f" (kept are: {codes})" if codes else ""
    return (
        f"{num(e['refused'])} of {num(e['n'])} messages within 1 h were refused{named}: certainly (99 %) "
        f"more than {percent(e['low'], 2)}; it fires above {percent(e['limit'], 2)}"
    )


def _undelivered(e: Evidence) -> str:
    what = "message was" if e["n"] == 1 else "messages were"
    problem = e["problem"].rstrip(".") or "no reason known"
    limit = f"it fires from {e['limit']:g}"
    return f"{num(e['n'])} {what} given up within 24 h, the last because: {problem}; {limit}"


_SAY: Final[Mapping[str, Callable[[Evidence], str]]] = {
    "golden_mismatch": _count("mismatch of golden vectors", "mismatches of golden vectors", "from"),
    "mac_bad": _count("message with a wrong MAC", "messages with a wrong MAC", "from"),
    "dead_letters": _count("refused message", "refused messages", "above"),
    "crash_loop": _count("boot after an abnormal reset", "boots after an abnormal reset", "from"),
    "anomaly_rate": _anomalies,
    "drift": _drift,
    "accuracy_drop": _accuracy,
    "latency_budget": _latency,
    "low_heap": _heap,
    "telemetry_gap": _gap,
    "ingest_lag": _lag,
    "cold_export_failed": _cold,
    "refused_share": _refused,
    "delivery_failed": _undelivered,
    "silent": _silent,
}


def sentence(alert: Alert) -> str:
    """What the newest firing evaluation saw, with its number, its limit and on how much it rests."""
    e = alert.evidence
    if "firing" in e:  # a part of the fleet, by the share of its devices
        told = (
            f"It fires for {num(e['firing'])} of {num(e['n'])} devices, certainly (99 %) more than "
            f"{percent(e['low'])} of them; up to {percent(e['limit'])} counts as single devices."
        )
    elif (say := _SAY.get(alert.kind)) is not None and "value" in e:
        told = f"{say(e)}."
    else:
        return "This evaluation kept no figures."
    return " ".join((told, *drift_words.reasons(e))) if alert.kind == "drift" else told


def label(kind: str) -> str:
    """A kind of rule as people say it; its name when this version does not know it."""
    return KINDS[kind].label if kind in KINDS else kind


def threshold(kind: str, value: float) -> str:
    """A rule's threshold with its unit."""
    unit = KINDS[kind].unit if kind in KINDS else ""
    if unit == "ratio":
        return percent(value)
    if unit == "bytes":
        return size(int(value))
    if unit == "s":
        return duration(value)
    return f"{value:g} {unit.removesuffix('s') if value == 1 else unit}".strip()


def span(evidence: Evidence) -> tuple[datetime, datetime] | None:
    """From when to when the evidence looks; None when it does not say."""
    try:
        return datetime.fromisoformat(evidence["from"]), datetime.fromisoformat(evidence["to"])
    except (KeyError, ValueError, TypeError):
        return None
