"""What a rehearsal came to: a sentence, a table per wave, and the same for machines."""

from __future__ import annotations

from typing import Any

from fleet.rehearsal.scaling import Small
from fleet.rehearsal.subject import Subject

COMPLETED, STOPPED = 0, 3


def summary(
    subject: Subject,
    small: Small,
    seen: dict[str, Any],
    faults: dict[str, Any],
    *,
    speed: float,
    seconds: float,
) -> dict[str, Any]:
    """Everything that was seen, as a JSON object. seen: the copy's last state. faults: of the devices."""
    waves = [_wave(wave, seen) for wave in seen["waves"]]
    opened = [wave for wave in waves if wave["state"] not in ("pending", "cancelled")]
    exposed = opened[-1]["cumulative"] if opened else 0
    is_completed = seen["state"] == "completed"
    of_devices = seen["size"]
    return {
        "rollout": {"id": subject.rollout_id, "name": subject.name, "state": subject.state},
        "model": subject.model,
        "candidate": subject.candidate.version,
        "baseline": subject.baseline.version if subject.baseline else None,
        "speed": speed,
        "scaling": list(small.notes),
        "plan": seen["plan"],
        "ended": seen["state"],
        "is_completed": is_completed,
        "sentence": _sentence(subject, seen, waves, exposed, of_devices),
        "exposed": exposed,
        "devices": of_devices,
        "would_expose": None if is_completed else round(subject.targets * exposed / max(1, of_devices)),
        "targets": subject.targets,
        "waves": waves,
        "faults": faults,
        "seconds": round(seconds, 1),
    }


def table(told: dict[str, Any]) -> str:
    """The summary for a person."""
    lines = ["", told["sentence"], ""]
    for wave in told["waves"]:
        verdict = wave["verdict"] or "no verdict"
        lines.append(f"wave {wave['wave']}  {wave['size']:>4} devices  {wave['state']:<12} {verdict}")
        for row in wave["rows"]:
            pairs = f"{row['pairs']} pairs" if row["pairs"] is not None else ""
            lines.append(f"    {row['rule']:<26} {row['verdict']:<14} {pairs:<9} {row['text']}")
    if told["would_expose"] is not None:
        lines.append(
            f"\nOf {told['devices']} virtual devices {told['exposed']} were exposed when it stopped; the "
            f"same share of the {told['targets']:,} that are meant is {told['would_expose']:,}."
        )
    lines.append(f"\nScaled (clocks {told['speed']:g} times as fast where nothing else is said):")
    lines += [f"    {note}" for note in told["scaling"]]
    return "\n".join(lines)


def _wave(wave: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    gate: dict[str, Any] = next((gate for gate in seen["gates"] if gate["wave"] == wave["n"]), {})
    before = sum(one["size"] for one in seen["waves"] if one["n"] < wave["n"])
    rows = [
        {
            "rule": row["rule"],
            "verdict": row["verdict"],
            "pairs": row.get("pairs"),
            "now": row.get("now"),
            "limit": row.get("limit"),
            "text": row["text"],
        }
        for row in gate.get("rows", [])
    ]
    return {
        "wave": wave["n"],
        "size": wave["size"],
        "cumulative": before + wave["size"],
        "state": wave["state"],
        "verdict": gate.get("verdict") or wave.get("verdict") or "",
        "rows": rows,
    }


def _sentence(
    subject: Subject, seen: dict[str, Any], waves: list[dict[str, Any]], exposed: int, devices: int
) -> str:
    what = f"{subject.name}: {subject.model} {subject.candidate.version}"
    if subject.baseline:
        what += f" over {subject.baseline.version}"
    if seen["state"] == "completed":
        return f"{what} completed all {len(waves)} waves on {devices} virtual devices. {seen['sentence']}"
    stopped = next((wave for wave in waves if wave["verdict"] == "fail"), None)
    where = f" at wave {stopped['wave']}" if stopped else ""
    return f"{what} was stopped{where}, {exposed} of {devices} exposed ({seen['state']}): {seen['reason']}"
