"""The sentence a rollout's page begins with: stored facts in plain words, no estimate of what is left."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ota.choices import JobState, RolloutState
from ota.gates.reasons import words
from ota.plan import Plan
from ota.readiness import NO_GATES
from ota.windows import zone_of

Facts = Mapping[str, Any]


def sentence(facts: Facts, plan: Plan, *, current: int | None, now: datetime) -> str:
    """One to three sentences on where the rollout is and what comes next.

    facts: what `ota.live.state` has read. current: number of the wave under way, None when there is none.
    """
    state = facts["state"]
    if state in (RolloutState.RUNNING, RolloutState.PAUSED):
        wave = next((wave for wave in facts["waves"] if wave["n"] == current), None)
        text = _wave_text(facts, wave, plan, now) if wave else "The last wave has passed."
        return f"Paused{_because(facts)}. {text}" if state == RolloutState.PAUSED else text
    return _WORDS[RolloutState(state)](facts, plan, now)


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `2 h 10`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7_200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d}"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


def clock(at: datetime, now: datetime | None = None) -> str:
    """`14:32 UTC`; with seconds when it is less than ten minutes from `now`, with the date from a day on."""
    utc = at.astimezone(UTC)
    away = abs(at - now) if now else timedelta(hours=1)
    if away < timedelta(minutes=10):
        return f"{utc:%H:%M:%S} UTC"
    return f"{utc:%H:%M} UTC" if away < timedelta(days=1) else f"{utc:%d %B %H:%M} UTC"


def progress(wave: Facts, failures: list[dict[str, Any]] | None = None) -> str:
    """`48 of 50 confirmed, 1 failed (op_missing), 1 silent`."""
    counts = wave["counts"]
    skipped = counts.get(JobState.SKIPPED, 0) + counts.get(JobState.REMOVED, 0)
    parts = [f"{wave['confirmed']} of {wave['size'] - skipped} confirmed"]
    if wave["in_flight"]:
        parts.append(f"{wave['in_flight']} in flight")
    silent = counts.get(JobState.TIMED_OUT, 0)
    failed = wave["failed"] - silent
    if failed:
        codes = dict.fromkeys(f["code"] for f in failures or [] if f["state"] != JobState.TIMED_OUT)
        parts.append(f"{failed} failed" + (f" ({', '.join(list(codes)[:3])})" if codes else ""))
    if silent:
        parts.append(f"{silent} silent")
    if deferred := counts.get(JobState.DEFERRED, 0):
        parts.append(f"{deferred} deferred")
    if waiting := wave["waiting"]:
        parts.append(f"{waiting} waiting")
    if skipped:
        parts.append(f"{skipped} skipped")
    return ", ".join(parts)


def _wave_text(facts: Facts, wave: Facts, plan: Plan, now: datetime) -> str:
    head = "The tail" if wave["is_tail"] else f"Wave {wave['n']} of {len(plan.waves)}"
    body = progress(wave, facts["failures"])
    if wave["state"] == "pending":
        return f"{head} opens {_when_open(facts, plan, now) or 'next'}."
    if wave["state"] in ("soaking", "evaluating") and wave["soaking_at"]:
        since, ends = _time(wave["soaking_at"]), _time(wave["soak_ends_at"])
        text = f"{head}, soaking {_of(now - since, ends - since)}: {body}."
    elif wave["state"] == "inconclusive":
        reasons = words(wave["reasons"]) or "no verdict"
        text = f"{head} is inconclusive so far ({reasons}): {body}."
    else:
        text = f"{head}, open {duration((now - _time(wave['opened_at'])).total_seconds())}: {body}."
        reach = wave["reach"]
        if reach and reach["reached"] < reach["needed"] <= reach["confirmed"]:
            text += f" {reach['reached']} of the {reach['needed']} needed have sent telemetry of it."
    if wave["is_tail"] and wave["state"] == "open":
        text += f" Devices that join get it until {local(_time(wave['closes_at']), plan.zone, now)}."
    if opens := _when_open(facts, plan, now):
        text += f" Outside its window: nothing is offered, the next one opens {opens}."
    if not facts["is_staged"]:
        text += " Nothing is offered before the chunks are staged."
    return " ".join(part for part in (text, _quality(facts, wave, plan), _next(facts, wave, now)) if part)


def _when_open(facts: Facts, plan: Plan, now: datetime) -> str:
    """When the window opens that a running rollout waits for; "" when it waits for none."""
    return f"at {local(_time(facts['opens_at']), plan.zone, now)}" if facts["opens_at"] else ""


def _quality(facts: Facts, wave: Facts, plan: Plan) -> str:
    if not plan.is_gated:
        first = not facts["summary"].get("baselines", 1)
        return f"First model on these devices. {NO_GATES}" if first else NO_GATES
    if not wave["is_gated"]:
        what = "It takes in late devices" if wave["is_tail"] else "The last wave takes control in"
        return f"{what}: only install failures can halt it."
    gate = next((gate for gate in facts["gates"] if gate["wave"] == wave["n"]), None)
    rows = [row for row in gate["rows"] if row["rule"].startswith("quality:")] if gate else []
    rows = [row for row in rows if row["n"] or not row["rule"].startswith("quality:reporting")]
    return " ".join(f"{row['label']}: {row['text']}{_flag(row)}." for row in rows)


def _flag(row: Facts) -> str:
    """What must stand beside a figure of this kind wherever it is shown."""
    return f"; {row['flag']}" if row.get("flag") else ""


def _next(facts: Facts, wave: Facts, now: datetime) -> str:
    following = next((other for other in facts["waves"] if other["n"] == wave["n"] + 1), None)
    if following is None:
        return ""
    if wave["soak_ends_at"] and wave["state"] in ("soaking", "evaluating"):
        return f"Next: {following['size']} devices, not before {clock(_time(wave['soak_ends_at']), now)}."
    return f"Next: {following['size']} devices, when this wave has passed."


def _of(done: timedelta, whole: timedelta) -> str:
    if done >= whole:
        return f"{duration(done.total_seconds())}, its {duration(whole.total_seconds())} are over"
    return f"{duration(done.total_seconds())} of {duration(whole.total_seconds())}"


def _draft(facts: Facts, plan: Plan, now: datetime) -> str:
    return "Draft: not checked against the fleet yet."


def _preflight(facts: Facts, plan: Plan, now: datetime) -> str:
    return "Being checked against the fleet."


def _preflight_failed(facts: Facts, plan: Plan, now: datetime) -> str:
    return f"Preflight failed{_because(facts)}. Nothing was sent."


def _awaiting_approval(facts: Facts, plan: Plan, now: datetime) -> str:
    approval = facts["approval"]
    why = "; ".join(approval["reasons"])
    about = approval["submission"]
    who = f" Not by {', '.join(about['authors'])}, who wrote it." if about else ""
    return f"{_reach(facts)}, awaiting approval: {why}. Nothing is sent before.{who}"


def _scheduled(facts: Facts, plan: Plan, now: datetime) -> str:
    at = plan.start_at or now
    if at > now:
        return f"{_reach(facts)}, scheduled: starts by itself at {local(at, plan.zone, now)}."
    opens = _time(facts["opens_at"]) if facts["opens_at"] else now
    return f"{_reach(facts)}, waits for its window: it opens at {local(opens, plan.zone, now)}."


def _rejected(facts: Facts, plan: Plan, now: datetime) -> str:
    who = next((row["by"] for row in facts["approval"]["decisions"] if row["decision"] == "reject"), "")
    return f"Rejected{f' by {who}' if who else ''}{_because(facts)}. Nothing was sent."


def local(at: datetime, zone: str, now: datetime | None = None) -> str:
    """`16:32 Europe/Berlin (14:32 UTC)`: a time as the plan's people read it, and in UTC."""
    if zone == "UTC":
        return clock(at, now)
    there = at.astimezone(zone_of(zone))
    day = "" if now and abs(at - now) < timedelta(days=1) else f"{there:%d %B} "
    return f"{day}{there:%H:%M} {zone} ({clock(at, now)})"


def _reach(facts: Facts) -> str:
    n = facts["summary"].get("eligible", 0)
    waves = len(facts["summary"].get("waves", []))
    return f"{_devices(n)} in {waves} {'wave' if waves == 1 else 'waves'}"


def _ready(facts: Facts, plan: Plan, now: datetime) -> str:
    if begun := facts["starting"]:
        return f"Starting, {begun['done']:,} of {begun['total']:,}: each device gets its place in the plan."
    summary = facts["summary"]
    text = f"Ready: {_reach(facts)}"
    if summary.get("control"):
        text += f", {summary['control']} of them control until the last"
    if who := facts["approval"]["approved_by"]:
        text += f", approved by {who}"
    then = "It starts now." if plan.start_at else "Nothing is sent before somebody starts it."
    return " ".join([f"{text}. {then}", *summary.get("notes", [])])


def _cancelled(facts: Facts, plan: Plan, now: datetime) -> str:
    return f"Cancelled before it started{_because(facts)}."


def _halted(facts: Facts, plan: Plan, now: datetime) -> str:
    undo = facts["undo"] or {}
    at = f" {clock(_time(facts['halted_at']), now)}" if facts["halted_at"] else ""
    text = f"Halted{at}{_because(facts)}. {_devices(undo.get('exposed', 0))} run it"
    parts = []
    if undo.get("revert_without_download"):
        parts.append(f"reverts {undo['revert_without_download']} with no download")
    if undo.get("stop"):
        parts.append(f"stops {undo['stop']} that ran nothing before")
    if undo.get("needs_download"):
        parts.append(f"reverts {undo['needs_download']} with {undo['download_bytes'] // 1024} KiB to load")
    return f"{text}; rollback {', '.join(parts)}." if parts else f"{text}."


def _aborting(facts: Facts, plan: Plan, now: datetime) -> str:
    confirmed = facts["counts"].get(JobState.CONFIRMED, 0)
    return (
        f"Aborting{_because(facts)}: offers are withdrawn, {_devices(confirmed)} keep the candidate so far."
    )


def _aborted(facts: Facts, plan: Plan, now: datetime) -> str:
    confirmed = facts["counts"].get(JobState.CONFIRMED, 0)
    return f"Aborted{_because(facts)}. {_devices(confirmed)} of {facts['size']} keep the candidate."


def _superseded(facts: Facts, plan: Plan, now: datetime) -> str:
    confirmed = facts["counts"].get(JobState.CONFIRMED, 0)
    by = facts["superseded_by"]
    name = f" by {by['name']}" if by else ""
    return f"Superseded{name}. {_devices(confirmed)} of {facts['size']} had confirmed this candidate."


def _rolling_back(facts: Facts, plan: Plan, now: datetime) -> str:
    back = facts["rollback"] or {"done": 0, "size": 0}
    how = f"{fetched} with a download" if (fetched := back.get("fetched")) else "no download"
    return f"Rolling back: {back['done']} of {_devices(back['size'])} are back, {how}{_because(facts)}."


def _rolled_back(facts: Facts, plan: Plan, now: datetime) -> str:
    back = facts["rollback"] or {"done": 0}
    took = ""
    if facts["rollback_started_at"] and facts["finished_at"]:
        seconds = (_time(facts["finished_at"]) - _time(facts["rollback_started_at"])).total_seconds()
        took = f" in {duration(seconds)}"
    how = f", {fetched} of them with a download" if (fetched := back.get("fetched")) else " with no download"
    return f"Rolled back{took}: {_devices(back['done'])} went back{how}{_because(facts)}."


def _rollback_incomplete(facts: Facts, plan: Plan, now: datetime) -> str:
    back = facts["rollback"] or {"done": 0, "size": 0, "rest": []}
    rest = [
        f"{item['device_id']} ({'' if item['is_online'] else 'offline, '}{item['code'] or item['state']})"
        for item in back["rest"][:3]
    ]
    text = f"Rollback incomplete: {back['done']} of {_devices(back['size'])} are back"
    return f"{text}. Left: {', '.join(rest)}. A device that was offline goes back when it connects."


def _completed(facts: Facts, plan: Plan, now: datetime) -> str:
    counts = facts["counts"]
    total = {
        "counts": counts,
        "size": facts["size"],
        "confirmed": counts.get(JobState.CONFIRMED, 0),
        "failed": sum(wave["failed"] for wave in facts["waves"]),
        "in_flight": 0,
        "waiting": 0,
    }
    took = ""
    if facts["started_at"] and facts["finished_at"]:
        seconds = (_time(facts["finished_at"]) - _time(facts["started_at"])).total_seconds()
        took = f" in {duration(seconds)}"
    return f"Completed{took}: {progress(total, facts['failures'])}."


_WORDS = {
    RolloutState.DRAFT: _draft,
    RolloutState.PREFLIGHT: _preflight,
    RolloutState.PREFLIGHT_FAILED: _preflight_failed,
    RolloutState.AWAITING_APPROVAL: _awaiting_approval,
    RolloutState.SCHEDULED: _scheduled,
    RolloutState.REJECTED: _rejected,
    RolloutState.READY: _ready,
    RolloutState.CANCELLED: _cancelled,
    RolloutState.HALTED: _halted,
    RolloutState.ABORTING: _aborting,
    RolloutState.ABORTED: _aborted,
    RolloutState.ROLLING_BACK: _rolling_back,
    RolloutState.ROLLED_BACK: _rolled_back,
    RolloutState.ROLLBACK_INCOMPLETE: _rollback_incomplete,
    RolloutState.COMPLETED: _completed,
    RolloutState.SUPERSEDED: _superseded,
}


def _because(facts: Facts) -> str:
    reason = str(facts["reason"]).rstrip(". ")
    return f": {reason}" if reason else ""


def _devices(n: int) -> str:
    return f"{n} device" if n == 1 else f"{n} devices"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
