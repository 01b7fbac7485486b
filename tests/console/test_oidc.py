"""Sign-in with an identity provider: a real one on this machine, asked as a browser does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from django.test import Client
from django.utils import timezone
from oidc_provider_mock import run_server_in_thread

from fleet.accounts import invitations
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import AuditEvent, Identity, User
from fleet.accounts.oidc_backend import OidcBackend
from tests.console.conftest import show_again

pytestmark = pytest.mark.django_db
CLAIMS: dict[str, Any] = {"email": "kim@example.org", "email_verified": True, "preferred_username": "kim"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a provider."""
    with run_server_in_thread() as running:
        yield f"http://localhost:{running.server_port}"


@pytest.fixture
def provider(server: str, settings: Any) -> str:
    """The provider, with the installation configured for it."""
    settings.OIDC_ISSUER, settings.OIDC_NAME = server, "Example Corp"
    settings.OIDC_RP_CLIENT_ID, settings.OIDC_RP_CLIENT_SECRET = "tinyfleet", "a secret"
    settings.OIDC_OP_AUTHORIZATION_ENDPOINT = f"{server}/oauth2/authorize"
    settings.OIDC_OP_TOKEN_ENDPOINT = f"{server}/oauth2/token"
    settings.OIDC_OP_USER_ENDPOINT = f"{server}/userinfo"
    settings.OIDC_OP_JWKS_ENDPOINT = f"{server}/jwks"
    settings.OIDC_VERIFY_KID = False  # its tokens do not name the key
    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.ModelBackend",
        "fleet.accounts.oidc_backend.OidcBackend",
    ]
    return server


def claims(provider: str, subject: str, **told: Any) -> None:
    """Let the provider say this of a person."""
    answer = httpx.put(f"{provider}/users/{quote(subject)}", json={**CLAIMS, **told})
    assert answer.status_code == 204, answer.text


def go(client: Client, subject: str, next_: str = "/devices") -> Any:
    """What our callback answers after the person has signed in at the provider."""
    begun = client.get(f"/login/oidc?next={next_}")
    assert begun.status_code == 302
    back = httpx.post(begun["Location"], data={"sub": subject})
    assert back.status_code in (302, 303), back.text
    there = urlsplit(back.headers["location"])
    assert f"{there.scheme}://{there.netloc}{there.path}" == "http://127.0.0.1:8000/login/oidc/callback"
    return client.get(f"{there.path}?{there.query}")


def invite(role: str = "operator", **more: Any) -> None:
    invitations.invite(role, email="kim@example.org", actor=SYSTEM, now=timezone.now(), **more)


def test_without_a_provider_there_is_no_such_way(db: None) -> None:
    assert 'data-test="oidc"' not in Client().get("/login").content.decode()
    for path in ("/login/oidc", "/login/oidc/callback?code=a&state=b"):
        assert Client().get(path).status_code == 404


def test_the_way_to_the_provider_has_state_nonce_and_a_code_challenge(provider: str) -> None:
    assert "Sign in with Example Corp" in Client().get("/login").content.decode()
    asked = parse_qs(urlsplit(Client().get("/login/oidc?next=/devices")["Location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == ["http://127.0.0.1:8000/login/oidc/callback"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    assert "prompt" not in asked


def test_who_is_invited_gets_an_account_and_is_known_by_the_subject_then(provider: str) -> None:
    invite("operator", group_limit=["pilot"])
    claims(provider, "s-1")
    client = Client()
    done = go(client, "s-1")
    assert (done.status_code, done["Location"]) == (303, "/devices")
    assert client.get("/account").context["user"].username == "kim"
    user = User.objects.get(username="kim")
    assert (user.role, user.group_limit, user.has_usable_password()) == ("operator", ["pilot"], False)
    claims(provider, "s-1", email="other@example.org", preferred_username="admin")
    assert go(Client(), "s-1").status_code == 303
    assert list(Identity.objects.values_list("subject", "user__username")) == [("s-1", "kim")]
    verbs = AuditEvent.objects.order_by("id").values_list("verb", flat=True)
    assert list(verbs) == ["invitation.make", "invitation.accept", "user.create"]
    user.is_active = False
    user.save()
    refused = go(Client(), "s-1")
    assert (refused.status_code, "not_found" in refused.content.decode()) == (403, True)
    assert client.get("/account").status_code == 302, "the session of a disabled person ends"


@pytest.mark.parametrize(
    "told", [{"email": "mallory@example.org"}, {"email_verified": False}, {"email_verified": "true"}]
)
def test_an_address_that_is_not_invited_or_not_verified_is_nobody(provider: str, told: Any) -> None:
    invite()
    User.objects.create_user("mallory", email="mallory@example.org", role="admin")
    claims(provider, "s-2", **told)
    client = Client()
    refused = go(client, "s-2")
    assert (refused.status_code, "<code>not_found</code>" in refused.content.decode()) == (403, True)
    assert client.get("/account").status_code == 302
    assert User.objects.count() == 1


def test_roles_and_groups_follow_the_claims_at_each_sign_in(provider: str, settings: Any) -> None:
    settings.OIDC_ROLES, settings.OIDC_ROLE_CLAIM = {"fleet-ops": "operator", "fleet-boss": "admin"}, "groups"
    settings.OIDC_GROUP_CLAIM = "lines"
    invite("admin")
    for given, role in (
        ([], "viewer"),
        (["x", "fleet-ops"], "operator"),
        (["fleet-ops", "fleet-boss"], "admin"),
    ):
        claims(provider, "s-3", groups=given, lines="pilot")
        assert go(Client(), "s-3").status_code == 303
        user = User.objects.get(username="kim")
        assert (user.role, user.group_limit) == (role, ["pilot"])
    claims(provider, "s-3", groups=[], lines=[])
    go(Client(), "s-3")
    assert User.objects.get(username="kim").role == "admin", "the last administrator stays one"


def test_a_second_factor_of_this_installation_is_asked_for_too(provider: str) -> None:
    invite()
    claims(provider, "s-4")
    go(Client(), "s-4")
    User.objects.update(second_factor="some")
    client = Client()
    assert go(client, "s-4")["Location"] == "/login/2fa"
    assert client.get("/devices").status_code == 302


def test_an_answer_that_is_not_for_this_sign_in_is_refused(provider: str) -> None:
    invite()
    claims(provider, "s-5")
    begun = Client().get("/login/oidc")
    back = httpx.post(begun["Location"], data={"sub": "s-5"}).headers["location"]
    path = f"{urlsplit(back).path}?{urlsplit(back).query}"
    stranger = Client()
    stranger.get("/login/oidc")
    for client, asked in (
        (Client(), path),  # no sign-in was begun
        (stranger, path),  # somebody else's was
        (stranger, "/login/oidc/callback?error=access_denied"),
        (stranger, "/login/oidc/callback"),
    ):
        answer = client.get(asked)
        assert (answer.status_code, "<code>token_invalid</code>" in answer.content.decode()) == (403, True)
        assert client.get("/account").status_code == 302
    mine = Client()
    again = mine.get("/login/oidc")["Location"]
    asked_state = parse_qs(urlsplit(again).query)["state"][0]
    session = mine.session
    session["oidc_states"][asked_state]["nonce"] = "another"
    session.save()
    location = urlsplit(httpx.post(again, data={"sub": "s-5"}).headers["location"])
    answer = mine.get(f"{location.path}?{location.query}")
    assert (answer.status_code, "<code>token_invalid</code>" in answer.content.decode()) == (403, True)
    assert not User.objects.exists()


@pytest.mark.parametrize(("name", "value"), [("OIDC_ISSUER", "http://other.example"), ("aud", "other")])
def test_a_token_of_another_issuer_or_for_another_client_is_refused(
    provider: str, settings: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    invite()
    claims(provider, "s-6")
    client = Client()
    begun = client.get("/login/oidc")
    location = urlsplit(httpx.post(begun["Location"], data={"sub": "s-6"}).headers["location"])
    if name == "aud":  # the flow goes on as before; only what the token must be for is another
        real = OidcBackend.__init__

        def for_another(self: Any, *args: Any) -> None:
            real(self, *args)
            settings.OIDC_RP_CLIENT_ID = value

        monkeypatch.setattr(OidcBackend, "__init__", for_another)
    else:
        settings.OIDC_ISSUER = value
    answer = client.get(f"{location.path}?{location.query}")
    assert (answer.status_code, "<code>token_invalid</code>" in answer.content.decode()) == (403, True)
    assert not User.objects.exists()


def test_a_provider_that_does_not_answer_is_told_as_that(provider: str, settings: Any) -> None:
    client = Client()
    begun = client.get("/login/oidc")
    location = urlsplit(httpx.post(begun["Location"], data={"sub": "s-7"}).headers["location"])
    settings.OIDC_OP_TOKEN_ENDPOINT = "http://127.0.0.1:1/token"
    answer = client.get(f"{location.path}?{location.query}")
    assert (answer.status_code, "<code>unavailable</code>" in answer.content.decode()) == (503, True)


def test_who_has_no_password_shows_it_is_them_at_the_provider(provider: str) -> None:
    invite("admin")
    claims(provider, "s-8")
    client = Client()
    go(client, "s-8")
    show_again(client, ago_s=timedelta(minutes=11).total_seconds())
    html = client.get("/reauth?next=/settings/users").content.decode()
    assert 'name="password"' not in html
    assert "/login/oidc?again=1&amp;next=/settings/users" in html
    asked = parse_qs(urlsplit(client.get("/login/oidc?again=1")["Location"]).query)
    assert asked["prompt"] == ["login"]
    go(client, "s-8")
    assert client.get("/settings/users/kim").status_code == 200
