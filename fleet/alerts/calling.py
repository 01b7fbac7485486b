"""One exchange with a receiver, from the look-up of its name to the head of its answer, in a bounded time.

The time-outs of httpx are of each read, and of a head of 100 KB a receiver can make a great many: one that
sends a byte every few seconds would hold a worker for days. So the whole has one deadline. Of the answer
nothing but the head is read; however long its body is, the connection is closed then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import httpx
from django.conf import settings

from fleet.alerts import addresses
from fleet.alerts.addresses import Place
from fleet.alerts.errors import AlertError

SILENCE_S: Final = 5.0
"""How long a receiver may say nothing, at each step."""
DEADLINE_S: Final = 15.0
"""How long all of it may take. Only the look-up can take longer, as the system's resolver lets it."""


def post(url: str, *, body: bytes, headers: Mapping[str, str]) -> int:
    """Status of the receiver's answer; redirects are not followed.

    Blocks, and runs an event loop of its own. Raises AlertError `validation` and `address_refused` as
    `addresses.resolve`, `timeout` after DEADLINE_S; httpx.HTTPError when there is no answer.
    """
    until = time.monotonic() + DEADLINE_S
    place = addresses.resolve(url, allow_private=settings.WEBHOOK_ALLOW_PRIVATE)
    try:
        return asyncio.run(_post(place, body, {"host": place.netloc, **headers}, until - time.monotonic()))
    except TimeoutError:
        raise AlertError("timeout", f"no whole answer within {DEADLINE_S:g} s") from None
    except (httpx.InvalidURL, ValueError) as problem:  # a name that TLS refuses, whatever the look-up says
        text = f"{place.host[:80]} cannot be called: {type(problem).__name__}: {problem}"
        raise AlertError("address_refused", text) from None


async def _post(place: Place, body: bytes, headers: Mapping[str, str], left_s: float) -> int:
    async with (
        httpx.AsyncClient(timeout=SILENCE_S, follow_redirects=False, trust_env=False) as client,
        asyncio.timeout(left_s),
        client.stream(
            "POST", place.url, content=body, headers=headers, extensions={"sni_hostname": place.host}
        ) as answer,
    ):
        return answer.status_code
