"""Times as requests write them."""

import re
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

_SHAPE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")


def _text_only(value: Any) -> Any:
    """Refuse numbers, which would be taken for seconds since 1970, and bare dates. Raises ValueError."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and _SHAPE.match(value)):
        raise ValueError("a time is written like 2026-05-02T12:00:00Z")
    return value


Moment = Annotated[datetime, BeforeValidator(_text_only)]
"""An RFC 3339 time. One without an offset gets through: who reads it refuses it with a code of its own."""
