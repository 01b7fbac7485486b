"""What is sent compressed, and what must not be: secrets that are shown once, ETags, answers to a POST."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.test import Client

from fleet.accounts import tokens
from fleet.accounts.audit import Actor
from tests.console import rows

AsRole = Callable[[str], Client]
GZIP = {"Accept-Encoding": "gzip, deflate"}


def test_a_page_comes_compressed_to_who_takes_it(as_role: AsRole, filled: rows.Filled) -> None:
    client = as_role("viewer")
    plain, packed = client.get("/devices"), client.get("/devices", headers=GZIP)
    assert not plain.has_header("Content-Encoding")
    assert packed["Content-Encoding"] == "gzip"
    assert int(packed["Content-Length"]) == len(packed.content) < len(plain.content) / 4
    for answer in (plain, packed):
        assert "Accept-Encoding" in answer["Vary"]
    masked = re.compile(r'csrfmiddlewaretoken" value="[^"]+"|data-relative>[^<]+<')
    texts = [body.decode() for body in (plain.content, gzip.decompress(packed.content))]
    assert masked.sub("", texts[0]) == masked.sub("", texts[1])


def test_the_size_of_a_page_does_not_tell_what_is_in_it(as_role: AsRole, filled: rows.Filled) -> None:
    """BREACH guesses by size: answers are padded at random, and no other site asks in a person's name."""
    client = as_role("viewer")
    sizes = {len(client.get("/settings/keyboard", headers=GZIP).content) for _ in range(12)}
    assert len(sizes) > 3
    assert settings.SESSION_COOKIE_SAMESITE == "Lax"


def test_what_is_shown_once_and_what_answers_a_post_is_never_compressed(
    as_role: AsRole, filled: rows.Filled
) -> None:
    client = as_role("admin")
    for path in ("/login", "/settings/tokens", "/new-devices"):
        answer = client.get(path, headers=GZIP)
        assert answer.status_code in (200, 302), path
        assert "no-store" in answer["Cache-Control"], path
        assert not answer.has_header("Content-Encoding"), path
    refused = client.post("/upload", {}, headers=GZIP)
    assert len(refused.content) > 1000
    assert not refused.has_header("Content-Encoding")


def test_lists_of_the_api_are_compressed_and_revisions_keep_their_etag(
    make_user: Callable[..., Any], filled: rows.Filled, present: Any
) -> None:
    user = make_user("viewer")
    _, token = tokens.issue(
        user, "t", frozenset({"devices:read"}), actor=Actor("user", "viewer"), now=present
    )
    headers = {**GZIP, "Authorization": f"Bearer {token}"}
    listed = Client().get("/api/v1/devices?limit=50", headers=headers)
    assert listed["Content-Encoding"] == "gzip"
    assert b'"items"' in gzip.decompress(listed.content)
    one = Client().get("/api/v1/devices/dev-000", headers=headers)
    assert one["ETag"].startswith('"'), "If-Match compares it as it was sent"
    assert not one.has_header("Content-Encoding")
