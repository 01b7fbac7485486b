"""Views that people save of a list: a name for the filter in its URL.

Not audited, as the theme is not: a view is its owner's own, and nobody else sees it or is affected by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from django.db import IntegrityError, transaction
from django.http import HttpRequest

from fleet.console.models import ListPage, SavedView

MOST: Final = 30
MAX_NAME: Final = 48
FILTERS: Final[dict[str, tuple[str, ...]]] = {
    ListPage.DEVICES: ("q", "find", "class", "presence", "run"),
    ListPage.ROLLOUTS: ("state",),
    ListPage.ALERTS: ("q", "state", "severity"),
}
"""GET parameters that make a list's filter; its place (`after`) is none of it."""
MAX_QUERY: Final = 4_000


class ViewError(Exception):
    """A view was not saved. code: `validation` or `duplicate`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Tools:
    """What stands above a list: saved views, the present filter as a query, and links to its rows."""

    page: str
    query: str
    views: list[SavedView]
    csv_url: str
    json_url: str

    @property
    def is_saved(self) -> bool:
        """The present filter is one of the views."""
        return any(one.query == self.query for one in self.views)


def tools(request: HttpRequest, page: ListPage) -> Tools:
    """The tools of a list as the request shows it; one query."""
    query = normal(page, request.GET.urlencode())
    links = [f"{request.path}?{query}{'&' if query else ''}format={form}" for form in ("csv", "json")]
    views = list(SavedView.objects.filter(owner=request.user.pk, page=page)[:MOST])
    return Tools(page, query, views, *links)


def normal(page: str, query: str) -> str:
    """The filter in a URL's query, in one order, without what is no filter of this list."""
    given = dict(parse_qsl(query[: 2 * MAX_QUERY]))
    return urlencode([(name, given[name]) for name in FILTERS[page] if given.get(name)])


def save(owner: Any, page: str, *, name: str, query: str, now: datetime) -> SavedView:
    """Keep a filter under a name. Raises ViewError `validation` (no list, no name, no filter, too many or too
    long) and `duplicate`.
    """
    name = name.strip()
    if page not in FILTERS:
        raise ViewError("validation", "there is no such list")
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ViewError("validation", f"a name is one line of 1 to {MAX_NAME} characters")
    kept = normal(page, query)
    if not kept:
        raise ViewError("validation", "filter the list first: a view is a filter under a name")
    if len(kept) > MAX_QUERY:
        raise ViewError(
            "validation", f"this filter has {len(kept):,} characters, at most {MAX_QUERY:,} are kept"
        )
    if SavedView.objects.filter(owner=owner, page=page).count() >= MOST:
        raise ViewError("validation", f"you have {MOST} views of this list, at most as many are kept")
    try:
        with transaction.atomic():
            return SavedView.objects.create(owner=owner, page=page, name=name, query=kept, created_at=now)
    except IntegrityError:
        raise ViewError("duplicate", f"you have a view {name!r} of this list already") from None
