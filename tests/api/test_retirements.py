"""What will be removed says so: in each answer, and in the document."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import pytest
from django.http import Http404, HttpRequest
from django.test import Client, override_settings
from django.urls import path
from ninja import Router

from fleet.api import errors
from fleet.api.retirements import RETIREMENTS, Retirement
from fleet.api.routes import Api
from fleet.api.routes import api as ours

GOING = Retirement(date(2026, 1, 1), date(2026, 7, 3), instead="/api/v1/new")
router = Router()
urlpatterns: list[Any] = []


@router.get("/{name}", auth=None, response=dict[str, str])
def read(request: HttpRequest, name: str) -> Any:
    """A route that will be removed, declared here."""
    if name == "none":
        raise Http404("no such thing")
    return {"name": name}


@router.get("", auth=None, response=dict[str, str])
def stay(request: HttpRequest) -> Any:
    """A route that stays."""
    return {}


@pytest.fixture
def served() -> Iterator[Api]:
    """An API of these two routes at /api/old."""
    made = Api(title="t", urls_namespace=f"retired-{uuid4()}", retirements={"GET /old/{name}": GOING})
    errors.install(made)
    made.add_router("/old", router)
    urlpatterns[:] = [path("api/", made.urls)]
    with override_settings(ROOT_URLCONF=__name__):
        yield made
    urlpatterns.clear()


def test_each_answer_says_since_when_until_when_and_what_instead(served: Api, client: Client) -> None:
    for name, status in (("a", 200), ("none", 404)):
        answer = client.get(f"/api/old/{name}")
        assert answer.status_code == status
        assert answer["Deprecation"] == f"@{int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())}"
        assert parsedate_to_datetime(answer["Sunset"]) == datetime(2026, 7, 3, tzinfo=UTC)
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer["Sunset"])
        assert answer["Link"] == '</api/v1/new>; rel="successor-version"'
    other = client.get("/api/old")
    assert other.status_code == 200
    assert not {"Deprecation", "Sunset", "Link"} & set(other.headers)


def test_the_document_calls_it_deprecated(served: Api) -> None:
    paths = served.get_openapi_schema(path_prefix="/api")["paths"]
    assert paths["/api/old/{name}"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/api/old"]["get"]


def test_six_months_pass_between_announcement_and_removal() -> None:
    with pytest.raises(ValueError, match="less than 183 days"):
        Retirement(date(2026, 1, 1), date(2026, 6, 30))


def test_a_table_that_names_no_operation_is_a_mistake() -> None:
    made = Api(title="t", urls_namespace="mistaken", retirements={"GET /older": GOING})
    made.add_router("/old", router)
    with pytest.raises(ValueError, match="GET /older"):
        made.get_openapi_schema(path_prefix="/api")


def test_nothing_of_ours_is_served_beyond_its_sunset_unsaid() -> None:
    """The table and the document name the same operations."""
    paths = ours.get_openapi_schema()["paths"]
    called = {
        f"{method.upper()} {name.removeprefix('/api/v1')}"
        for name, methods in paths.items()
        for method, one in methods.items()
        if one.get("deprecated")
    }
    assert called == set(RETIREMENTS)
