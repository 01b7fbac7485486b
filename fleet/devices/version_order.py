"""The order of display versions: 1.9.0 comes before 1.10.0, a pre-release before its release.

Bare Python: the query language, the device rows and tests share it.
"""

import re
from typing import Final

KEY_CHARS: Final = 160
"""Most characters a key can have, for a version of at most 24 characters."""
_PARTS: Final = 4
_SHAPE: Final = re.compile(
    r"v?([0-9]+(?:\.[0-9]+){0,3})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]*)?"
)


def version_key(text: str) -> str:
    """A string that sorts, byte by byte, as the version does; "" for a text that is no version.

    One to four numbers with dots, missing ones count as 0, so 1.4 equals 1.4.0; a leading `v` and build
    metadata after `+` do not count. What follows a `-` is a pre-release, ordered as in Semantic Versioning
    2.0.0 section 11: numbers by value and before words, words by ASCII, fewer parts first.
    """
    found = _SHAPE.fullmatch(text) if len(text) <= 24 else None
    if found is None:
        return ""
    numbers = found[1].split(".")
    release = "".join(_number(part) for part in numbers + ["0"] * (_PARTS - len(numbers)))
    if found[2] is None:
        return f"{release}1"
    return f"{release}0" + "".join(f"{_identifier(part)}!" for part in found[2].split("."))


def _number(digits: str) -> str:
    """Digits behind their count, so that more digits sort later."""
    digits = digits.lstrip("0")
    return f"{len(digits):02d}{digits}"


def _identifier(part: str) -> str:
    # ! sorts below every character an identifier may have, so that alpha comes before alpha1
    return f"0{_number(part)}" if part.isdigit() else f"1{part}"
