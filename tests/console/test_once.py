"""A form is done once by its number, its path and what it says; twenty at once are `test_twenty_at_once`."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from django.test import Client

from fleet.accounts.models import User
from fleet.console.models import SentForm
from fleet.devices.models import DeviceGroup
from tests.console.conftest import show_again
from tests.console.test_models_and_uploads import MODEL, send
from tests.console.test_models_and_uploads import installation as installation

pytestmark = pytest.mark.django_db


@pytest.fixture
def signed_in(make_user: Callable[..., User], client: Client) -> Client:
    client.force_login(make_user("admin"))
    return client


def names() -> list[str]:
    return sorted(DeviceGroup.objects.values_list("name", flat=True))


def test_a_form_that_was_refused_can_be_mended_and_sent_again(signed_in: Client) -> None:
    number = str(uuid4())
    refused = signed_in.post("/new-group", {"name": "No Good", "kind": "static", "once": number})
    assert refused.status_code == 422
    made = signed_in.post("/new-group", {"name": "good", "kind": "static", "once": number})
    assert (made.status_code, made["Location"]) == (303, "/groups/good")


def test_a_form_sent_twice_is_done_once_and_says_so(signed_in: Client) -> None:
    sent = {"name": "good", "kind": "static", "once": str(uuid4()), "csrfmiddlewaretoken": "a" * 64}
    assert signed_in.post("/new-group", sent)["Location"] == "/groups/good"
    sent["csrfmiddlewaretoken"] = "b" * 64  # a browser's other tab has drawn another mask
    again = signed_in.post("/new-group", sent, follow=True)
    assert again.redirect_chain == [("/groups/good", 303)]
    assert "sent twice" in again.content.decode()
    assert names() == ["good"]


def test_gone_back_to_and_sent_with_something_else_it_is_another_form(signed_in: Client) -> None:
    number = str(uuid4())
    for name in ("good", "better"):
        sent = {"name": name, "kind": "static", "once": number}
        for _ in range(2):
            assert signed_in.post("/new-group", sent)["Location"] == f"/groups/{name}"
    assert names() == ["better", "good"]


def test_a_number_of_one_page_holds_no_other_page_back(signed_in: Client) -> None:
    number = str(uuid4())
    sent = {"name": "good", "kind": "static", "once": number}
    assert signed_in.post("/new-group", sent)["Location"] == "/groups/good"
    show_again(signed_in)
    typed = {"name": "good", "kind": "static", "days": "30", "scopes": ["devices:read"], "once": number}
    assert signed_in.post("/settings/tokens", typed).status_code == 201


def test_another_file_is_another_form(signed_in: Client, installation: None) -> None:
    number = str(uuid4())
    for _ in range(2):
        assert send(signed_in, once=number)["Location"] == "/models/activity/1.0.0"
    other = send(signed_in, MODEL + b"\0", once=number)
    assert other.status_code == 409, "a version has one file"
    assert "duplicate" in other.content.decode()


def test_a_form_that_asks_for_the_password_first_is_not_done_yet(signed_in: Client) -> None:
    typed = {"name": "ci", "days": "30", "scopes": ["devices:read"], "once": str(uuid4())}
    assert signed_in.post("/settings/tokens", typed)["Location"].startswith("/reauth")
    assert not SentForm.objects.exists()
    show_again(signed_in)
    assert signed_in.post("/settings/tokens", typed).status_code == 201


def test_another_persons_form_is_another(make_user: Callable[..., User], client: Client) -> None:
    number = str(uuid4())
    for name in ("anna", "bert"):
        client.force_login(make_user("admin", name))
        made = client.post("/new-group", {"name": f"of-{name}", "kind": "static", "once": number})
        assert made["Location"] == f"/groups/of-{name}"
