"""The second factor in the console: set up, asked for, demanded, lost; and being asked again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any
from urllib.parse import unquote

import pytest
from django.core import cache as django_cache
from django.test import Client
from django.urls import URLPattern
from django.utils import timezone

from fleet.accounts.models import AuditEvent, SecondFactor, SignIn, User
from fleet.console import urls
from fleet.console.templatetags.console import browser
from fleet.console.views import verbs
from ota.models import Rollout, SigningKey
from tests.accounts.authenticator import code_at
from tests.console import rows
from tests.console.conftest import show_again

AsRole = Callable[[str], Client]
OPEN = {"login", "login-2fa", "logout", "theme", "invitation", "oidc", "oidc-callback"}
"""Pages that ask for no signed-in person."""


@pytest.fixture(autouse=True)
def _clean_cache(db: None) -> None:
    django_cache.cache.clear()


def set_up(client: Client) -> tuple[str, list[str]]:
    """Set a second factor up through the pages: (secret, recovery codes)."""
    assert client.post("/account/second-factor/begin")["Location"] == "/account/second-factor"
    html = client.get("/account/second-factor").content.decode()
    secret = re.search(r'data-test="secret">([A-Z2-7]+)<', html)
    assert secret is not None
    assert "<svg" in html.split('data-test="qr"')[1][:40]
    done = client.post("/account/second-factor", {"code": code_at(secret[1], timezone.now(), steps=-1)})
    assert done.status_code == 200
    codes = done.content.decode().split('data-test="recovery-codes">')[1].split("</pre>")[0].split()
    return secret[1], codes


def to_second_factor(name: str, next_: str = "/devices") -> tuple[Client, Any]:
    client = Client()
    answer = client.post("/login", {"username": name, "password": f"pass-{name}-word", "next": next_})
    return client, answer


def console_paths() -> Iterator[tuple[str, str]]:
    """(name, a path) of every page, fragment and verb of the console."""
    parts = {"uuid": "00000000-0000-7000-8000-000000000000", "int": "1"}
    for pattern in urls.urlpatterns:
        if isinstance(pattern, URLPattern):
            route = str(pattern.pattern)
            path = re.sub(r"<(?:(\w+):)?\w+>", lambda found: parts.get(found[1] or "", "x"), route)
            yield str(pattern.name), f"/{path}"


def test_after_the_password_the_code_is_due_and_then_one_is_where_one_wanted_to_be(viewer: User) -> None:
    first = Client()
    first.force_login(viewer)
    show_again(first)
    secret, codes = set_up(first)
    assert len(codes) == 10
    assert first.get("/devices").status_code == 200, "the session that set it up goes on"
    client, answer = to_second_factor("viewer")
    assert (answer.status_code, answer["Location"]) == (303, "/login/2fa")
    assert client.get("/devices")["Location"].startswith("/login?"), "the password alone opens nothing"
    refused = client.post("/login/2fa", {"code": "000000"})
    assert refused.status_code == 422
    assert "That did not work" in refused.content.decode()
    code = code_at(secret, timezone.now())
    done = client.post("/login/2fa", {"code": code})
    assert (done.status_code, done["Location"]) == (303, "/devices")
    assert client.get("/devices").status_code == 200
    other, _ = to_second_factor("viewer")
    replayed = other.post("/login/2fa", {"code": code})
    assert (replayed.status_code, replayed.content.count(b"That did not work")) == (422, 1)
    assert other.post("/login/2fa", {"code": codes[0]})["Location"] == "/devices"
    third, _ = to_second_factor("viewer")
    assert third.post("/login/2fa", {"code": codes[0]}).status_code == 422


def test_without_a_password_before_it_the_second_page_leads_to_the_first(viewer: User) -> None:
    client = Client()
    assert client.get("/login/2fa")["Location"] == "/login"
    assert client.post("/login/2fa", {"code": "123456"})["Location"] == "/login"
    client.force_login(viewer)
    assert client.get("/login/2fa")["Location"] == "/login"


def test_the_half_signed_in_wait_only_ten_minutes(viewer: User) -> None:
    User.objects.update(second_factor="some")
    client, _ = to_second_factor("viewer")
    session = client.session
    session["half_signed_in"] = {**session["half_signed_in"], "at": timezone.now().timestamp() - 601}
    session.save()
    assert client.get("/login/2fa")["Location"] == "/login"


def test_wrong_codes_back_off_and_then_the_password_waits_too(viewer: User) -> None:
    first = Client()
    first.force_login(viewer)
    show_again(first)
    secret, _ = set_up(first)
    for _ in range(5):
        client, _ = to_second_factor("viewer")
        client.post("/login/2fa", {"code": "abcde-fghjk"})
    assert client.post("/login/2fa", {"code": code_at(secret, timezone.now())}).status_code == 422
    assert to_second_factor("viewer")[1].status_code == 422


def test_every_page_needs_the_second_factor_once_there_is_one(as_role: AsRole) -> None:
    client = as_role("admin")
    User.objects.update(second_factor="of another session")
    seen = 0
    for name, path in console_paths():
        if name in OPEN:
            continue
        for method in (client.get, client.post):
            answer = method(path)
            if answer.status_code == 405:
                continue
            assert (answer.status_code, answer["Location"].split("?")[0]) == (303, "/login/2fa"), path
            seen += 1
    assert seen > 60
    assert client.get("/", headers={"HX-Request": "true"}).status_code == 401


def test_in_production_who_decides_sets_one_up_first_and_can_stop_rollouts(
    as_role: AsRole, filled: rows.Filled, settings: Any
) -> None:
    settings.PRODUCTION = True
    running = filled.rollouts["running"].pk
    client = as_role("admin")
    own = {"account", "account-password", "sessions-end-others", "reauth"}
    for name, path in console_paths():
        if name in OPEN | own or name.startswith("second-factor"):
            continue
        for method in (client.get, client.post):
            answer = method(path)
            if answer.status_code != 405:
                assert answer.status_code == 303, path
                assert answer["Location"].startswith("/account/second-factor?"), path
    html = client.get("/account/second-factor").content.decode()
    assert 'data-test="second-factor-due"' in html
    assert f"/rollouts/{running}/pause" in html
    assert client.get(f"/rollouts/{running}/pause").status_code == 200
    assert client.post(f"/rollouts/{running}/rollback")["Location"].startswith("/account/second-factor?")
    assert client.post(f"/rollouts/{running}/pause", {"reason": "now"}).status_code == 303
    assert Rollout.objects.get(pk=running).state == "paused"
    assert client.post(f"/rollouts/{running}/abort", {"reason": "now"}).status_code == 303
    assert Rollout.objects.get(pk=running).state in ("aborting", "aborted")
    assert as_role("operator").get("/devices").status_code == 200, "operators may do without"
    set_up(client)
    assert client.get("/devices").status_code == 200


def test_signing_in_leads_an_administrator_of_production_to_it(admin: User, settings: Any) -> None:
    settings.PRODUCTION = True
    _, answer = to_second_factor("admin")
    assert answer["Location"] == "/account/second-factor"


def test_it_goes_away_only_with_a_code(viewer: User) -> None:
    client = Client()
    client.force_login(viewer)
    show_again(client)
    _, codes = set_up(client)
    assert (
        "That did not work"
        in client.post("/account/second-factor/remove", {"code": "1"}, follow=True).content.decode()
    )
    assert SecondFactor.objects.count() == 1
    renewed = client.post("/account/second-factor/codes", {"code": codes[0]}).content.decode()
    assert codes[1] not in renewed
    fresh = renewed.split('data-test="recovery-codes">')[1].split("</pre>")[0].split()
    done = client.post("/account/second-factor/remove", {"code": fresh[0]}, follow=True)
    assert "The second factor is removed" in done.content.decode()
    assert to_second_factor("viewer")[1]["Location"] == "/devices"
    verbs_ = list(
        AuditEvent.objects.filter(subject_kind="user").order_by("id").values_list("verb", flat=True)
    )
    assert verbs_ == [
        "second_factor.confirm",
        "second_factor.recover",
        "second_factor.renew_codes",
        "second_factor.recover",
        "second_factor.remove",
    ]


def test_without_a_passphrase_there_is_no_half_made_secret(viewer: User, settings: Any) -> None:
    settings.KEY_PASSPHRASE = ""
    client = Client()
    client.force_login(viewer)
    show_again(client)
    answer = client.post("/account/second-factor/begin")
    assert answer.status_code == 503
    assert "passphrase_missing" in answer.content.decode()
    assert SecondFactor.objects.count() == 0


def test_a_changed_password_signs_out_everywhere_else(viewer: User) -> None:
    mine, other = Client(), Client()
    for client in (mine, other):
        client.post("/login", {"username": "viewer", "password": "pass-viewer-word"})
    assert mine.get("/account").content.decode().count("<tr><td") == 2
    for old, new, name in (("wrong", "a long enough phrase", "old"), ("pass-viewer-word", "short", "new")):
        refused = mine.post("/account/password", {"old": old, "new": new})
        assert refused.status_code == 422
        assert f'data-test="error-{name}"' in refused.content.decode()
    done = mine.post("/account/password", {"old": "pass-viewer-word", "new": "a long enough phrase"})
    assert done["Location"] == "/account"
    assert mine.get("/account").content.decode().count("<tr><td") == 1
    assert other.get("/account").status_code == 302
    viewer.refresh_from_db()
    assert viewer.check_password("a long enough phrase")
    assert AuditEvent.objects.get(verb="user.set_password").actor == "viewer"


def test_other_sessions_can_be_ended(viewer: User) -> None:
    mine, other = Client(), Client(headers={"User-Agent": "<b>old\x00 phone</b>" + "x" * 500})
    for client in (mine, other):
        client.post("/login", {"username": "viewer", "password": "pass-viewer-word"})
    html = mine.get("/account").content.decode()
    assert "&lt;b&gt;old phone&lt;/b&gt;" in html
    assert html.count("this one") == 1
    assert (
        "1 other session signed out"
        in mine.post("/account/sessions/end-others", follow=True).content.decode()
    )
    assert other.get("/account").status_code == 302
    assert mine.get("/account").status_code == 200
    assert SignIn.objects.count() == 1
    assert AuditEvent.objects.get(verb="session.end_others").after == {"ended": 1}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox 140, Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140.0.0.0 Safari/537.36 Edg/141.0.0.0", "Edge 141, Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0) Version/18.0 Safari/604.1", "Safari 18, iPhone"),
        ("curl/8", "curl/8"),
        ("x" * 300, "x" * 60),
        ("", "unknown"),
    ],
)
def test_a_browser_is_told_in_a_few_words(told: str, words: str) -> None:
    assert browser(told) == words


def test_what_cannot_be_taken_back_asks_again_after_ten_minutes(
    as_role: AsRole, filled: rows.Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = as_role("admin")
    running = filled.rollouts["running"].pk
    kid = SigningKey.objects.create(
        kid="k1", role="release", public_key=b"0" * 32, created_at=timezone.now()
    ).kid
    paths = ["/devices/dev-000/retire", f"/keys/{kid}/revoke", f"/rollouts/{running}/rollback"]
    show_again(client, ago_s=601)
    assert client.get(paths[2]).status_code == 200, "a small rollback does not ask"
    monkeypatch.setattr(verbs, "ROLLBACK_ASKS_OVER", 3)
    for path in paths:
        for answer in (client.get(path), client.post(path, {"reason": "because"})):
            assert (answer.status_code, unquote(answer["Location"])) == (303, f"/reauth?next={path}")
        told = client.get(path, headers={"HX-Request": "true"})
        assert (told.status_code, told.content) == (403, b"reauth_required")
    for verb in ("pause", "abort"):
        assert client.get(f"/rollouts/{running}/{verb}").status_code == 200
    assert client.post(f"/rollouts/{running}/pause", {"reason": "stop"}).status_code == 303
    assert Rollout.objects.get(pk=running).state == "paused"


def test_after_the_password_the_page_comes_back_with_what_was_typed(
    as_role: AsRole, filled: rows.Filled
) -> None:
    client, path, password = as_role("admin"), "/devices/dev-000/retire", "pass-admin-of-test-word"
    show_again(client, ago_s=601)
    client.post(path, {"reason": 'water "damage"', "password": "not kept"})
    wrong = client.post("/reauth", {"password": "wrong", "next": path})
    assert wrong.status_code == 422
    assert "That did not work" in wrong.content.decode()
    right = client.post("/reauth", {"password": password, "next": path})
    assert (right.status_code, right["Location"]) == (303, path)
    html = unescape(client.get(path).content.decode())
    assert 'value="water "damage""' in html
    assert "not kept" not in html
    assert 'value=""' in client.get(path).content.decode(), "it is kept once"
    elsewhere = client.post("/reauth", {"password": password, "next": "//else.where"})
    assert elsewhere["Location"] == "/"


def test_with_a_second_factor_the_code_is_what_is_asked_for(as_role: AsRole) -> None:
    client = as_role("admin")
    secret, _ = set_up(client)
    show_again(client, ago_s=601)
    assert client.get("/devices/x/retire").status_code == 303
    page = client.get("/reauth?next=/devices").content.decode()
    assert 'name="code"' in page
    assert 'name="password"' not in page
    assert client.post("/reauth", {"password": "pass-admin-of-test-word"}).status_code == 422
    assert client.post("/reauth", {"code": code_at(secret, timezone.now())}).status_code == 303
    assert client.get("/devices/x/retire").status_code == 404


def test_guesses_of_the_password_in_a_session_wait_too(as_role: AsRole) -> None:
    client = as_role("admin")
    for _ in range(5):
        assert client.post("/reauth", {"password": "wrong"}).status_code == 422
    assert client.post("/reauth", {"password": "pass-admin-of-test-word"}).status_code == 422
