"""One exchange with a receiver, from the look-up of its name to the head of its answer, in a bounded time.

Time-outs of HTTP libraries are of each read, and of a head of 100 KB a receiver can make a great many: one
that sends a byte every few seconds would hold a worker for days. So whatever is done with the socket is done
within one deadline. Of the answer nothing but the head is read; however long its body is, the connection is
closed then.

No event loop and no thread: celery's soft time limit is an exception out of a signal, which either would
swallow.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import httpcore
from django.conf import settings

from fleet.alerts import addresses
from fleet.alerts.errors import AlertError

SILENCE_S: Final = 5.0
"""How long a receiver may say nothing, at each step."""
DEADLINE_S: Final = 15.0
"""How long all of it may take. Only the look-up can take longer, as the system's resolver lets it."""
_NO_ANSWER: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)


def post(url: str, *, body: bytes, headers: Mapping[str, str]) -> int:
    """Status of the receiver's answer; redirects are not followed, and no proxy is asked.

    Blocks. Raises AlertError `validation` and `address_refused` as `addresses.resolve`, `timeout` after
    DEADLINE_S, `unreachable` when there is no answer, or none that is HTTP.
    """
    until = time.monotonic() + DEADLINE_S
    place = addresses.resolve(url, allow_private=settings.WEBHOOK_ALLOW_PRIVATE)
    target = httpcore.URL(
        scheme=place.url.raw_scheme,
        host=place.url.raw_host,
        port=place.url.port,
        target=place.url.raw_path,
    )
    sent: list[tuple[bytes | str, bytes | str]] = [("host", place.netloc), ("content-length", str(len(body)))]
    sent += headers.items()
    waits = dict.fromkeys(("connect", "read", "write"), SILENCE_S)
    more = {"sni_hostname": place.host, "timeout": waits}
    try:
        with (
            httpcore.ConnectionPool(network_backend=_Network(until)) as pool,
            pool.stream("POST", target, headers=sent, content=body, extensions=more) as answer,
        ):
            return answer.status
    except _NO_ANSWER as problem:
        if time.monotonic() >= until:
            raise AlertError("timeout", f"no whole answer within {DEADLINE_S:g} s") from None
        raise AlertError("unreachable", f"{type(problem).__name__}: {problem}") from None
    except ValueError as problem:  # a name that TLS refuses, whatever the look-up says
        text = f"{place.host[:80]} cannot be called: {problem}"
        raise AlertError("address_refused", text) from None


class _Network(httpcore.NetworkBackend):
    """Connections that are over at a moment of the monotonic clock."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = _left(self._until, timeout)
        return _Stream(
            self._inner.connect_tcp(host, port, left_s, local_address, socket_options), self._until
        )


class _Stream(httpcore.NetworkStream):
    """One of them."""

    def __init__(self, inner: httpcore.NetworkStream, until: float) -> None:
        self._inner = inner
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(self._until, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(self._until, timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left_s = _left(self._until, timeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left_s), self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(until: float, most: float | None) -> float:
    """Seconds that a step may take. Raises httpcore.TimeoutException when there are none: a receiver that
    always has something to say never lets a step wait.
    """
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise httpcore.TimeoutException("the deadline is over")
    return left_s if most is None else min(left_s, most)
