"""The rollout form as it would have been filled to give a stored rollout."""

from __future__ import annotations

from typing import Any

from fleet.console.plan_fields import duration_text, plain, windows_text
from fleet.console.plan_form import OFFERED
from ota.models import Rollout
from ota.plan import Plan, Size
from ota.windows import zone_of


def initial_of(row: Rollout) -> dict[str, Any]:
    """The form as it would have been filled to give this rollout."""
    plan = Plan.parse(row.plan)
    first = plan.metrics[0] if plan.metrics else None
    return {
        "rev": row.rev,
        "name": row.name,
        "manifest": row.manifest_id,
        "classes": row.target.get("classes", []),
        "devices": " ".join(row.target.get("devices", [])),
        "groups": row.target.get("groups", []),
        "q": row.target.get("q", ""),
        "waves": ", ".join(_size_text(size) for size in plan.waves),
        "control": _size_text(plan.control),
        "max_in_flight": plan.max_in_flight,
        "offers_per_minute": plan.offers_per_minute,
        "by_class": plan.by_class,
        "r_prove": "" if plan.r_prove is None else f"{plain(plan.r_prove * 100)}%",
        "metrics": list(dict.fromkeys(row.metric for row in plan.metrics if row.metric in OFFERED)),
        "accept_proxy": plan.accept_proxy,
        "promote_margin": plain(first.promote_margin * 100 if first else 3.0),
        "halt_margin": plain(first.halt_margin * 100 if first else 0.0),
        "min_pairs": plan.min_pairs,
        "settle": duration_text(plan.settle_s),
        "window": duration_text(plan.window_s),
        "soak": duration_text(plan.soak_s),
        "max_soak": duration_text(plan.max_soak_s),
        "trial_deadline": duration_text(plan.trial_deadline_s),
        "on_fail": plan.on_fail,
        "on_inconclusive": plan.on_inconclusive,
        "rollback_to": plan.rollback_to,
        "rollback_reason": plan.rollback_reason,
        "supersede": plan.supersede,
        "start_at": f"{plan.start_at.astimezone(zone_of(plan.zone)):%Y-%m-%dT%H:%M}" if plan.start_at else "",
        "zone": plan.zone,
        "windows": windows_text(plan.windows),
        "late": plan.late,
        "tail_days": plain(plan.tail_days),
        "requires_approval": plan.requires_approval,
    }


def _size_text(size: Size) -> str:
    if size.named:
        return f"@{' '.join(size.named)}"
    return str(size.count) if size.count is not None else f"{plain(size.percent or 0.0)}%"
