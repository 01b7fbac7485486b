"""Which fields the answers of v1 have: the document does not list those of most, and they may not go.

`FLEET_RELEASE_ANSWERS=1 pytest -n 0 tests/api/test_answers.py` makes the fields of now the ones that later
answers are held to, unless one is gone; `python -m tests.api.breaking release` does it for the document. A
field that is away because what is looked at has changed, and not the API, is taken out of the file by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

RELEASED: Final = Path(__file__).with_name("answers-released.json")
_FIELD: Final = re.compile(r"[a-z][a-z0-9_]*")
_DATA: Final = ("before", "after")
"""What an event of the audit trail changed: fields of its object, as they were called then."""


def fields(answer: Any, where: str = "") -> Iterator[str]:
    """Paths of all fields of a parsed answer; `*` for the entries of a list, and for keys that are data (a
    device, a version, a digest).
    """
    pairs = answer.items() if isinstance(answer, dict) else ()
    for name, one in pairs:
        path = f"{where}/{name if _FIELD.fullmatch(name) else '*'}"
        yield path
        yield from fields(one, path) if name not in _DATA else ()
    for one in answer if isinstance(answer, list) else ():
        yield from fields(one, f"{where}/*")


def gone(released: Mapping[str, list[str]], now: Mapping[str, set[str]]) -> list[str]:
    """What answers had at the release and have no more, a line each."""
    return [
        f"{operation}: {path} is gone"
        for operation, paths in released.items()
        for path in paths
        if path not in now.get(operation, ())
    ]


def release(now: Mapping[str, set[str]]) -> None:
    """Hold later answers to these fields."""
    RELEASED.write_text(json.dumps({name: sorted(now[name]) for name in sorted(now)}, indent=1) + "\n")
