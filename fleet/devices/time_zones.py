"""Time zones of devices: names of the IANA database, whoever says them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

ATTRIBUTE: Final = "tz"
"""Attribute of a device that names its zone."""
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}", re.ASCII)


@lru_cache(maxsize=1_024)
def find(name: str) -> ZoneInfo | None:
    """The zone of this name; None for anything else: never a path, and no zone of this machine
    (`localtime`).
    """
    if not _ZONE.fullmatch(name) or name in ("localtime", "Factory"):
        return None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # no such zone, or a folder of zones
        return None
