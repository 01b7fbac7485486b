"""What happened here that people outside may want to be told of, for those above who know how to tell.

`fleet.alerts` keeps receivers and their outbox, and knows this package; this package does not know it. So who
tells is registered when the application loads, and is called inside the transaction of what happened: the
message commits with it, or neither does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

KEY_REVOKED: Final = "key.revoked"
EVENTS: Final = (KEY_REVOKED,)


@dataclass(frozen=True)
class Announcement:
    """One thing that happened. event: of EVENTS. kind, id: what it happened to. rev: rises with everything
    that is announced of the same object, so a receiver knows the newer of two messages. data: plain JSON.
    """

    event: str
    kind: str
    id: str
    rev: int
    at: datetime
    data: Mapping[str, Any]


Teller = Callable[[Announcement], object]
_tellers: list[Teller] = []


def register(teller: Teller) -> None:
    """Let `teller` hear of everything that is announced from now on; a second time changes nothing."""
    if teller not in _tellers:
        _tellers.append(teller)


def announce(said: Announcement) -> None:
    """Tell everybody who registered. Call it in the transaction of what happened; what a teller raises undoes
    that too.
    """
    for teller in _tellers:
        teller(said)
