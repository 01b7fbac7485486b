"""The hub of /settings: what can be set and looked at, and what is in it now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleet.accounts.scopes import READ
from fleet.console.access import page, scopes

ANYBODY: Final = "devices:read"
"""The scope that every role has."""


@dataclass(frozen=True)
class Entry:
    """A subpage. name: of its URL in the console. scope: who sees it; every page asks for its own again."""

    name: str
    title: str
    text: str
    scope: str


SECTIONS: Final[tuple[tuple[str, tuple[Entry, ...]], ...]] = (
    (
        "You",
        (
            Entry("account", "Your account", "Password, second factor, sessions.", ANYBODY),
            Entry("tokens", "API tokens", "For the command line and for other programs.", ANYBODY),
            Entry("keyboard", "Keyboard", "Shortcuts, and the switch that turns them off.", ANYBODY),
        ),
    ),
    (
        "Fleet and people",
        (
            Entry("classes", "Device classes", "Chip, memory and operators of each kind of board.", ANYBODY),
            Entry("keys", "Signing keys", "Who may sign models, and what devices trust.", "keys:admin"),
            Entry("users", "People", "Who may sign in, as what, and invitations.", "users:admin"),
        ),
    ),
    (
        "Messages",
        (
            Entry(
                "webhooks",
                "Webhooks",
                "Which programs are told of what, and what was sent.",
                "webhooks:write",
            ),
            Entry("dead-letters", "Dead letters", "Messages that were refused, and why.", "telemetry:read"),
        ),
    ),
    (
        "Installation",
        (
            Entry("broker", "Broker", "Connection, limits that lose messages, figures.", ANYBODY),
            Entry("retention", "Retention and storage", "What is kept how long, and its size.", ANYBODY),
            Entry("about", "About and licences", "Version, packages, API reference.", ANYBODY),
        ),
    ),
)


@require_safe
@page(*READ)
def hub(request: HttpRequest) -> HttpResponse:
    """Every subpage that the person may open."""
    mine = scopes(request)
    shown = [(title, [one for one in entries if one.scope in mine]) for title, entries in SECTIONS]
    return render(request, "console/settings/hub.html", {"groups": [found for found in shown if found[1]]})
