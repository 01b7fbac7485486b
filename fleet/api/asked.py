"""Query strings in which every name must be known: a filter with a typo would else answer for everything, and
`?dryrun=true` would do what it was meant to try.
"""

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from ninja import Schema
from ninja.errors import ValidationError
from ninja.operation import Operation

MOST_TOLD = 10


class Asked(Schema):
    """The whole query string of a request, as one body."""


def refuse_unknown(operation: Operation) -> None:
    """Have an operation refuse parameters that it does not have: `validation`, one entry of `errors` each.

    Once the caller is authenticated and before any other value is read, so that a misspelt name is told
    rather than the name that is missing for it.
    """
    known: set[str] = set()
    for model in operation.models:
        if model.__ninja_param_source__ == "query":
            known |= set(getattr(model, "__ninja_flatten_map__", ()))
    read = operation._get_values

    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        _check(request.GET, known)
        return read(request, *args, **kwargs)

    setattr(operation, "_get_values", checked)  # noqa: B010 - ninja has no hook between the two


def _check(given: Iterable[str], known: set[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValidationError(
            [
                {"loc": ("query", name[:64]), "type": "extra_forbidden", "msg": "there is no such parameter"}
                for name in unknown[:MOST_TOLD]
            ]
        )
