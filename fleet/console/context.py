"""What every console page needs: navigation, theme, what the person may do."""

from dataclasses import dataclass
from typing import Any, cast

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from fleet.accounts.models import User
from fleet.accounts.scopes import scopes_of
from fleet.alerts.choices import AlertState
from fleet.alerts.models import Alert


@dataclass(frozen=True)
class Section:
    """An entry of the rail. prefixes: first parts of the paths that belong to it. scope: who sees it, "" =
    everybody.
    """

    name: str
    label: str
    icon: str
    prefixes: tuple[str, ...]
    scope: str = ""


SECTIONS = (
    Section("overview", "Overview", "overview", ("",)),
    Section("devices", "Devices", "device", ("devices", "new-devices", "groups", "new-group", "bulk")),
    Section("models", "Models", "model", ("models", "upload")),
    Section("rollouts", "Rollouts", "rollout", ("rollouts",)),
    Section("telemetry", "Telemetry", "telemetry", ("telemetry",)),
    Section("alerts", "Alerts", "bell", ("alerts",)),
    Section("audit", "Audit", "book", ("audit",), scope="audit:read"),
    Section("settings", "Settings", "gear", ("settings", "keys")),
)


OF_GROUPS = frozenset({"devices", "rollouts", "telemetry"})
"""Sections that people see who are limited to groups of devices."""


def frame(request: HttpRequest) -> dict[str, Any]:
    """Theme from its cookie (`light`, `dark`, or `` for the system's), sections, and the person's scopes.

    open_alerts is counted only where a template prints it: a fragment that polls does not pay for it.
    """
    theme = request.COOKIES.get("theme", "")
    first = request.path.strip("/").partition("/")[0]
    user = getattr(request, "user", None)
    is_known = user is not None and user.is_authenticated
    scopes = scopes_of(cast(User, user)) if is_known else frozenset[str]()
    is_limited = getattr(user, "group_limit", None) is not None
    return {
        "theme": theme if theme in {"light", "dark"} else "",
        "sections": [
            item
            for item in SECTIONS
            if (not item.scope or item.scope in scopes) and (not is_limited or item.name in OF_GROUPS)
        ],
        "shortcuts": request.COOKIES.get("shortcuts") != "off",
        "section": next((item.name for item in SECTIONS if first in item.prefixes), ""),
        "scopes": scopes,
        "open_alerts": open_alerts if "telemetry:read" in scopes and not is_limited else 0,
        "is_production": settings.PRODUCTION,
        "request_id": getattr(request, "request_id", ""),
    }


def spoken() -> QuerySet[Alert]:
    """Alerts that speak for themselves: folded ones are on the page of the alert that stands for them, unless
    that one is over and they are not.
    """
    is_left = Q(folded_into__state=AlertState.RESOLVED) & ~Q(state=AlertState.RESOLVED)
    return Alert.objects.filter(Q(folded_into=None) | is_left)


def open_alerts() -> int:
    """How many alerts wait for somebody, as the list shows them."""
    return spoken().filter(state=AlertState.OPEN).count()
