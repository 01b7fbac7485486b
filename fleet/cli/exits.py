"""How a command ends. Scripts may rely on these numbers."""

from typing import Final

OK: Final = 0
REFUSED: Final = 1
"""The installation said no; its code and what to do are on standard error."""
USAGE: Final = 2
UNREACHABLE: Final = 3
ENDED_BADLY: Final = 4
"""What was watched or waited for ended otherwise than wished: halted, rolled back, refused by preflight."""
TIMED_OUT: Final = 5
INTERRUPTED: Final = 130


class UsageError(Exception):
    """The command was not given what it needs."""


class EndedBadly(Exception):
    """The thing that was waited for ended otherwise than wished."""
