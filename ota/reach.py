"""Which rollouts reach no further than somebody's limit to groups of devices (`fleet.devices.limits`).

Decided by what the target names and not by today's devices: a target that names groups selects devices of
these only, whatever else it asks for. So it holds for a draft, and does not change while a rollout runs.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from ota.models import Rollout

TOLD: Final = (
    *("id", "name", "kind", "state", "label", "tone", "rev", "slot", "manifest", "created_by", "created_at"),
    *("started_at", "finished_at", "as_of", "size", "counts", "waves", "sentence"),
)
"""What is told of a rollout that reaches further: how far it is, and no device of it."""


def is_within(limit: Collection[str] | None, target: Mapping[str, Any]) -> bool:
    """True when a target (`Target.to_json()`) selects devices of the limit's groups only."""
    if limit is None:
        return True
    groups = target.get("groups") or []
    return bool(groups) and set(groups) <= set(limit)


def told(state: Mapping[str, Any], rollout: Rollout, limit: Collection[str] | None) -> dict[str, Any]:
    """`rollouts.state` as somebody with this limit reads it; what reaches further allows them nothing."""
    if is_within(limit, rollout.target):
        return dict(state)
    return {name: state[name] for name in TOLD if name in state} | {"allowed": [], "is_outside_limit": True}
