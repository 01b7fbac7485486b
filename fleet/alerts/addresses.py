"""Where a webhook may go: the host is resolved, refused when private, and its address pinned for the call.

The URL is an administrator's, the name's answer is whoever runs that zone's: without the check a webhook
would reach the database or a cloud's metadata service, and without the pin a second answer would
undo the check.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from fleet.alerts.errors import AlertError

MAX_URL_CHARS: Final = 512


@dataclass(frozen=True)
class Place:
    """Whom to call. url: with the address that was checked in place of the name. host: the name, in ASCII.
    netloc: name and port, as the header `host` has them.
    """

    url: httpx.URL
    host: str
    netloc: str


def check_url(url: str) -> str:
    """The URL without surrounding blanks. Raises AlertError `validation` for anything but http(s)://host."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        port = parts.port
        httpx.URL(url)  # what it refuses could never be called: a name that is no IDNA, no IPv6
    except (ValueError, httpx.InvalidURL):
        raise AlertError("validation", "the URL is not well-formed", field="url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not url.isprintable():
        raise AlertError("validation", "a URL begins with https:// or http:// and a host", field="url")
    if parts.username is not None or len(url) > MAX_URL_CHARS:
        text = f"a URL has no password in it and at most {MAX_URL_CHARS} characters"
        raise AlertError("validation", text, field="url")
    return url


def resolve(url: str, *, allow_private: bool) -> Place:
    """The place to call. Blocks while the name is looked up.

    Raises AlertError `validation` as `check_url`, and `address_refused` when the host is unknown, or any of
    its addresses is not a public one.
    """
    parts = httpx.URL(check_url(url))
    host = parts.raw_host.decode("ascii")  # the lookup and the call must mean the same name
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AlertError("address_refused", f"no address for {host[:80]!r}", field="url") from None
    addresses = [str(item[4][0]) for item in found]
    for one in addresses:
        if not allow_private and not _is_public(one):
            text = f"{host[:80]} is at {one}, which is not a public address"
            raise AlertError("address_refused", text, field="url")
    return Place(parts.copy_with(host=addresses[0]), host, parts.netloc.decode("ascii"))


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_global and not found.is_multicast
