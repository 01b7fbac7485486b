"""What a query about telemetry may name. Bare Python."""

from collections.abc import Mapping
from typing import Final

from fleet.devices.query import parse
from fleet.devices.query_terms import DEVICE_FIELDS, Kind, Vocabulary, comparisons

RUN_FIELDS: Final[Mapping[str, Kind]] = {"model": Kind.TEXT, "version": Kind.VERSION, "digest": Kind.TEXT}
"""What reported; digest: 16 hex digits."""
FIELDS: Final = Vocabulary(
    names={**RUN_FIELDS, "rollout": Kind.TEXT, **DEVICE_FIELDS.names}, families=DEVICE_FIELDS.families
)
"""What reported, a rollout's id, and every field of a device."""


def is_by_device(q: str) -> bool:
    """Whether devices must be told apart to answer a query. Raises QueryError of `fleet.devices`."""
    return any(one.field not in RUN_FIELDS for one in comparisons(parse(q, FIELDS)))
