"""What happened here that people outside may want to be told of, for those above who know how to tell.

`fleet.alerts` keeps receivers and their outbox, and stands above devices and rollouts, which do not know it.
So this stands below every layer, as `fleet.hints` does: who tells is registered when the application loads,
and is called inside the transaction of what happened. The message commits with it, or neither does.

What happens now and then is announced as it is (`announce`). What may happen ten thousand times in a minute,
a job that fails or a device that enrols, is a fact (`note`): facts about one object are told together, in one
message. Most installations have nobody who asks for either, and making an announcement reads rows that the
change itself does not need: ask `is_asked` first, once in a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

ROLLOUT_CHANGED: Final = "rollout.state_changed"
WAVE_VERDICT: Final = "wave.verdict"
JOB_FAILED: Final = "job.failed"
MODEL_SIGNED: Final = "model.signed"
KEY_REVOKED: Final = "key.revoked"
DEVICE_ENROLLED: Final = "device.enrolled"
EVENTS: Final[Mapping[str, str]] = {
    ROLLOUT_CHANGED: "A rollout is in another state: started, paused, halted, completed, taken back.",
    WAVE_VERDICT: "A wave of a rollout passed, failed, is inconclusive, or was overridden by a person.",
    JOB_FAILED: "Devices of a rollout did not take the model: at most one message in 15 seconds lists them.",
    MODEL_SIGNED: "A model version was signed: its manifest can be rolled out.",
    KEY_REVOKED: "A signing key was revoked, and what follows from it.",
    DEVICE_ENROLLED: "Devices of a class enrolled: at most one message in 15 seconds lists them.",
}
"""Every event that is announced, with a sentence for people."""


@dataclass(frozen=True)
class Announcement:
    """One thing that happened. event: of EVENTS. kind, id: what it happened to. rev: rises with everything
    that is announced of the same object, so a receiver knows the newer of two messages. data: plain JSON.
    page: path of the console that shows it, api: of the REST API; "" for none.
    """

    event: str
    kind: str
    id: str
    rev: int
    at: datetime
    data: Mapping[str, Any]
    page: str = ""
    api: str = ""


@dataclass(frozen=True)
class Fact:
    """One of many things that are told together. event, kind, id: as of an announcement; facts that share
    them become one message. key: what they are counted by, at most 32 characters. item: this one, about: what
    all of them share, plain JSON. page, api: as of an announcement, of all of them.
    """

    event: str
    kind: str
    id: str
    at: datetime
    key: str
    item: Mapping[str, Any]
    about: Mapping[str, Any]
    page: str = ""
    api: str = ""


@dataclass(frozen=True)
class Teller:
    """Somebody who tells. is_asked: whether anybody wants to hear of an event now. tell, note: keep what is
    to be told, in the caller's transaction.
    """

    is_asked: Callable[[str], bool]
    tell: Callable[[Announcement], object]
    note: Callable[[Sequence[Fact]], object]


_tellers: list[Teller] = []


def register(teller: Teller) -> None:
    """Let `teller` hear of everything that is announced from now on; a second time changes nothing."""
    if teller not in _tellers:
        _tellers.append(teller)


def is_asked(event: str) -> bool:
    """True when somebody wants to hear of this event: one small query. What is announced nevertheless is told
    to nobody.
    """
    return any(teller.is_asked(event) for teller in _tellers)


def announce(said: Announcement) -> None:
    """Tell everybody who registered. Call it in the transaction of what happened; what a teller raises undoes
    that too.
    """
    for teller in _tellers:
        teller.tell(said)


def note(facts: Sequence[Fact]) -> None:
    """Have facts told with others of their kind. Call it in their transaction, as `announce`."""
    for teller in _tellers if facts else ():
        teller.note(facts)
