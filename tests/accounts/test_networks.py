"""Networks as people write them, what lies in them, and which lie in which."""

from __future__ import annotations

import pytest

from fleet.accounts import networks


def test_networks_are_kept_in_their_shortest_form_once_and_in_their_order() -> None:
    typed = [" 2001:DB8:0::/32 ", "10.1.0.0/16", "10.1.0.0/255.255.0.0", "192.0.2.7", "192.0.2.7/32"]
    assert networks.parsed(typed) == ["2001:db8::/32", "10.1.0.0/16", "192.0.2.7/32"]
    sixteen = [f"10.0.0.{n}/32" for n in range(networks.MOST)]
    assert networks.parsed(sixteen) == sixteen
    assert networks.parsed([*sixteen, "10.0.0.0"]) == sixteen, "what is said twice counts once"
    with pytest.raises(ValueError, match="17 networks, 1 to 16"):
        networks.parsed([*sixteen, "10.0.0.16"])


def test_an_address_of_a_link_is_held_without_the_name_of_the_link() -> None:
    assert networks.hold(["fe80::/10"], "fe80::1%eth0")
    assert not networks.hold(["fe80::/10"], "2001:db8::1%eth0")


@pytest.mark.parametrize(
    ("outer", "inner", "is_covered"),
    [
        (["10.0.0.0/16"], ["10.0.0.0/16"], True),
        (["10.0.0.0/16"], ["10.0.0.0/17", "10.0.255.255/32"], True),
        (["10.0.0.0/16"], ["10.0.0.0/15"], False),
        (["10.0.0.0/16"], ["10.0.0.0/16", "10.1.0.0/32"], False),
        (["10.0.0.0/16", "10.1.0.0/16"], ["10.1.0.0/24", "10.0.0.0/24"], True),
        (["0.0.0.0/0"], ["::/0"], False),
        (["::/0"], ["10.0.0.0/8"], False),
        (["2001:db8::/32"], ["2001:db8::/31"], False),
        (["2001:db8::/32"], ["2001:db8:1::/48"], True),
    ],
)
def test_networks_cover_what_is_no_wider_than_they(
    outer: list[str], inner: list[str], is_covered: bool
) -> None:
    assert networks.cover(outer, inner) is is_covered
