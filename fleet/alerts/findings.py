"""What a rule finds: one shape for every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A rule about one device, or one part of the fleet.

    is_firing, is_clear: both false when there is too little evidence. mid: the model run, "" for any.
    folded: keys of the devices' findings that this one stands for.
    """

    key: str
    is_firing: bool
    is_clear: bool
    evidence: Mapping[str, Any]
    device_id: str = ""
    device_class: str = ""
    mid: str = ""
    is_fleet: bool = False
    folded: frozenset[str] = field(default_factory=frozenset)
