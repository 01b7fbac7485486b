"""Long answers of a web process, files that are sent while they are read: how many there may be, and
connections to the database of their own.

A request takes a connection from the pool (`FLEET_DB_POOL`) and gives it back before its answer is sent
(`GiveBackMiddleware`), however slowly that is read. A file that is sent while it is read asks for
batch after batch, for minutes, so it has no part in that: all files of a process share READERS threads, each
with a connection outside the pool for the time of one batch. A client that does not
read holds memory for a batch, and its place among MOST; after IDLE_S it loses that, and its file is cut.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from django.core.handlers.asgi import ASGIRequest
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase

T = TypeVar("T")
MOST: Final = 40
READERS: Final = 4
IDLE_S: Final = 60.0


class BusyError(Exception):
    """No place for one more. code: `contended` (HTTP 503): asking later can succeed."""

    def __init__(self, text: str) -> None:
        super().__init__(f"contended: {text}")
        self.code = "contended"
        self.text = text


class Places:
    """The long answers under way, at most `most`; one that has not gone on for `idle_s` counts no more."""

    def __init__(self, most: int = MOST, idle_s: float = IDLE_S) -> None:
        self._most = most
        self._idle_s = idle_s
        self._went_on: dict[Place, float] = {}
        self._lock = threading.Lock()

    def take(self, now: float) -> Place:
        """A place. now: of a monotonic clock, seconds. Raises BusyError `contended` when there is none."""
        with self._lock:
            gone = [one for one, at in self._went_on.items() if now - at > self._idle_s]
            for one in gone:
                del self._went_on[one]
            if len(self._went_on) >= self._most:
                raise BusyError(f"{self._most} files are being sent, at most as many can be: ask later")
            found = Place(self)
            self._went_on[found] = now
            return found

    def go_on(self, place: Place, now: float) -> None:
        """Keep a place. Raises TimeoutError when it went to somebody else, or its time is over."""
        with self._lock:
            at = self._went_on.pop(place, None)
            if at is None or now - at > self._idle_s:
                raise TimeoutError(f"a file that is not read for {self._idle_s:.0f} s is cut")
            self._went_on[place] = now

    def leave(self, place: Place) -> None:
        """Give a place back; again does nothing."""
        with self._lock:
            self._went_on.pop(place, None)


class Place:
    """One long answer under way."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def go_on(self) -> None:
        """Before each part. Raises TimeoutError: the transfer is cut and must not end as if it were whole."""
        self._places.go_on(self, time.monotonic())

    def leave(self) -> None:
        """At the end, however it came; safe to call again."""
        self._places.leave(self)


_places = Places()


def give_back() -> None:
    """Give this thread's connection back before something long that needs none; the next statement takes one
    again. Within a transaction nothing happens.
    """
    if not connection.in_atomic_block:
        connection.close()


def _outside_the_pool() -> None:
    """Have this thread's connections made for it alone."""
    own = connections.create_connection(DEFAULT_DB_ALIAS)
    options = {name: value for name, value in own.settings_dict["OPTIONS"].items() if name != "pool"}
    own.settings_dict = {**own.settings_dict, "OPTIONS": options}
    connections[DEFAULT_DB_ALIAS] = own


_reading = ThreadPoolExecutor(READERS, thread_name_prefix="long-answer", initializer=_outside_the_pool)


def answer(request: HttpRequest, following: Callable[[], bytes]) -> Iterator[bytes] | AsyncIterator[bytes]:
    """What a streaming answer sends: parts from `following` until it gives b"". Raises BusyError `contended`.

    Under an event loop each part is read in one of READERS threads, else where the answer is sent. A
    TimeoutError in the midst cuts the transfer.
    """
    place = _places.take(time.monotonic())
    return _in_loop(place, following) if isinstance(request, ASGIRequest) else _in_turn(place, following)


def _in_turn(place: Place, following: Callable[[], bytes]) -> Iterator[bytes]:
    try:
        while part := following():
            place.go_on()
            yield part
    finally:
        place.leave()


async def _in_loop(place: Place, following: Callable[[], bytes]) -> AsyncIterator[bytes]:
    try:
        while part := await _read(following):
            place.go_on()
            yield part
    finally:
        place.leave()


async def _read(batch: Callable[[], T]) -> T:
    def apart() -> T:
        try:
            return batch()
        finally:
            give_back()

    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_reading, context.run, apart)


class GiveBackMiddleware:
    """Give the request's connection back once its answer is made, not when its client has read that.

    Outermost, so that nothing needs one any more. Only under an event loop, where a request has a thread, and
    so a connection, of its own.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        answer = self.get_response(request)
        if isinstance(request, ASGIRequest):
            give_back()
        return answer
