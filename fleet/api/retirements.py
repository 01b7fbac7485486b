"""Operations of the API that will be removed: a table, and what it makes every answer of theirs say.

`Deprecation` (RFC 9745) says since when nobody should begin to use an operation, `Sunset` (RFC 8594) until
when it is served, `Link` what to use instead. Within a version nothing is removed earlier than NOTICE after
it was announced; the document calls it `deprecated` meanwhile.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.http import http_date
from ninja.operation import Operation

NOTICE: Final = timedelta(days=183)
"""Least time between announcement and removal: six months."""


@dataclass(frozen=True)
class Retirement:
    """When an operation was announced to go, and when it goes: at 0:00 UTC of these days. instead: path of
    what replaces it, "" when nothing does.

    Raises ValueError for less than NOTICE between the two.
    """

    since: date
    until: date
    instead: str = ""

    def __post_init__(self) -> None:
        if self.until - self.since < NOTICE:
            raise ValueError(f"between {self.since} and {self.until} are less than {NOTICE.days} days")

    def headers(self) -> dict[str, str]:
        """What every answer says, errors included."""
        said = {"Deprecation": f"@{_seconds(self.since)}", "Sunset": http_date(_seconds(self.until))}
        if self.instead:
            said["Link"] = f'<{self.instead}>; rel="successor-version"'
        return said


Retirements = Mapping[str, Retirement]
RETIREMENTS: Final[dict[str, Retirement]] = {}
"""`POST /rollouts/{rollout_id}/submit` -> its retirement, without `/api/v1`. Nothing is to be removed now."""


def announce(operation: Operation, path: str, retirements: Retirements) -> set[str]:
    """Have an operation say that it will be removed, if it is in the table; returns its names there."""
    names = {f"{method} {path}" for method in operation.methods} & set(retirements)
    if not names:
        return names
    operation.deprecated = True
    run: Callable[..., Any] = operation.run

    def told(request: HttpRequest, **given: Any) -> HttpResponse:
        answer: HttpResponse = run(request, **given)
        entry = retirements.get(f"{request.method} {path}")
        for name, value in entry.headers().items() if entry else ():
            answer[name] = value
        return answer

    setattr(operation, "run", told)  # noqa: B010 - ninja has no hook around an operation and its errors
    return names


def _seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
