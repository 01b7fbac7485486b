"""Signing in: one wording for every failure, a back-off, and no way to send people elsewhere."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.core import cache as django_cache  # the proxy itself would connect while tests are collected
from django.test import Client

from fleet.console import throttle
from fleet.console.views.sign_in import REFUSAL


@pytest.fixture(autouse=True)
def _clean_cache(db: None) -> None:
    django_cache.cache.clear()


def sign_in(client: Client, name: str, password: str, **more: str) -> Any:
    return client.post("/login", {"username": name, "password": password, **more})


def test_the_right_password_leads_to_where_one_wanted_to_go(viewer: Any) -> None:
    client = Client()
    answer = sign_in(client, "viewer", "pass-viewer-word", next="/devices?q=a")
    assert (answer.status_code, answer["Location"]) == (303, "/devices?q=a")
    assert client.get("/").status_code == 200


def test_a_foreign_destination_is_ignored(viewer: Any) -> None:
    answer = sign_in(Client(), "viewer", "pass-viewer-word", next="https://elsewhere.example/")
    assert answer["Location"] == "/"


def test_every_failure_reads_the_same(viewer: Any, make_user: Any) -> None:
    gone = make_user("viewer", "gone")
    gone.is_active = False
    gone.save()
    for name, password in (
        ("viewer", "wrong"),
        ("nobody", "wrong"),
        ("vi\0", "wrong"),
        ("gone", "pass-gone-word"),
        ("", ""),
    ):
        answer = sign_in(Client(), name, password)
        assert answer.status_code == 422
        assert REFUSAL.split(":")[0] in answer.content.decode()


def test_after_five_failures_even_the_right_password_waits(viewer: Any) -> None:
    for _ in range(throttle.FREE_TRIES):
        assert sign_in(Client(), "viewer", "wrong").status_code == 422
    assert sign_in(Client(), "viewer", "pass-viewer-word").status_code == 422
    assert throttle.wait_s("viewer", "127.0.0.1", now_s=time.time()) > 0
    throttle.succeeded("viewer", "")
    django_cache.cache.delete("console:login:address:127.0.0.1:until")
    assert sign_in(Client(), "viewer", "pass-viewer-word").status_code == 303


def test_the_back_off_doubles_and_ends(viewer: Any) -> None:
    now_s = time.time()
    for _ in range(throttle.FREE_TRIES + 3):
        throttle.failed("viewer", "10.0.0.1", now_s=now_s)
    assert throttle.wait_s("viewer", "10.0.0.2", now_s=now_s) == 8
    assert throttle.wait_s("viewer", "10.0.0.2", now_s=now_s + 9) == 0
    assert throttle.wait_s("other", "10.0.0.2", now_s=now_s) == 0
    assert throttle.wait_s("other", "10.0.0.1", now_s=now_s) == 8
    for _ in range(40):
        throttle.failed("viewer", "10.0.0.1", now_s=now_s)
    assert throttle.wait_s("viewer", "10.0.0.1", now_s=now_s) == throttle.LONGEST_WAIT_S


def test_without_redis_people_can_still_sign_in(viewer: Any, settings: Any) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1/0",
        }
    }
    assert sign_in(Client(), "viewer", "wrong").status_code == 422
    assert sign_in(Client(), "viewer", "pass-viewer-word").status_code == 303


def test_signing_out_ends_the_session(viewer: Any) -> None:
    client = Client()
    client.force_login(viewer)
    assert client.get("/logout").status_code == 405
    assert client.post("/logout").status_code == 303
    assert client.get("/").status_code == 302


def test_who_is_signed_in_does_not_see_the_form(viewer: Any) -> None:
    client = Client()
    client.force_login(viewer)
    assert client.get("/login?next=/models")["Location"] == "/models"
