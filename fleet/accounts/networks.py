"""Source networks: from which addresses an API token may be used.

The address is the peer's as the web server tells it. From peers that it trusts, and from no other, the server
takes the address that they say they were called from: proxies, which must set that header or append to it
(guide "accounts"). The application itself reads no header.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

MOST: Final = 16
_MOST_CHARS: Final = 64


def parsed(texts: Iterable[str]) -> list[str]:
    """Networks in their shortest form, each once, in the order given: `10.0.0.0/8`, `2001:db8::/32`; an
    address alone is a network of itself. Raises ValueError, with words for people, for anything else, for an
    address with bits beyond its prefix, and for none or more than 16.
    """
    found = []
    for text in texts:
        text = text.strip()
        try:
            found.append(str(ipaddress.ip_network(text[: _MOST_CHARS + 1])))
        except ValueError:
            said = f"{text[:_MOST_CHARS]!r} is no network: write 10.1.0.0/16, 2001:db8::/32 or one address"
            raise ValueError(said) from None
    found = list(dict.fromkeys(found))
    if not 1 <= len(found) <= MOST:
        raise ValueError(f"{len(found)} networks, 1 to {MOST} can be named")
    return found


def cover(networks: Iterable[str], others: Iterable[str]) -> bool:
    """True when each of the other networks lies in one of the networks; both as `parsed` gives them."""
    outer = [ipaddress.ip_network(one) for one in networks]
    inner = [ipaddress.ip_network(one) for one in others]
    return all(
        any(one.network_address in big and one.prefixlen >= big.prefixlen for big in outer) for one in inner
    )


def hold(networks: Sequence[str], address: str) -> bool:
    """True when the address lies in one of the networks. What is no address, as over a Unix socket, does not.

    An IPv4 address that arrives at an IPv6 socket is the IPv4 address.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(one) for one in networks)
