"""An Idempotency-Key: what is kept, for how long, and that nobody reads it who has not asked."""

from __future__ import annotations

import base64
import hmac
from datetime import timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from django.conf import settings as the_settings
from django.db import connection
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import ApiToken
from fleet.api.idempotency import KEPT
from fleet.api.models import IdempotentRequest
from tests.api.conftest import Caller, clock

pytestmark = pytest.mark.django_db
TOKEN = {"name": "ci", "scopes": ["devices:read"]}


def test_an_error_is_not_kept_and_a_key_goes_with_its_request(call: Caller) -> None:
    body = {"name": "x", "model": "kws", "version": "1", "plan": {}}
    assert call("POST", "/rollouts", body, IDEMPOTENCY_KEY="k").json()["code"] == "not_found"
    assert not IdempotentRequest.objects.exists()  # an error may be tried again
    row = IdempotentRequest.objects.create(
        owner=call.token.public_id,
        key="k",
        request_digest="other",
        status=200,
        body=b"{}",
        created_at=clock(),
    )
    assert call("POST", "/rollouts", body, IDEMPOTENCY_KEY="k").json()["code"] == "idempotency_key_reused"
    row.delete()


def test_verbs_that_start_something_need_an_idempotency_key(call: Caller) -> None:
    answer = call("POST", "/rollouts/00000000-0000-7000-8000-000000000000/start", {})
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_required")


def test_an_answer_is_kept_for_a_day(call: Caller) -> None:
    IdempotentRequest.objects.create(
        owner=call.token.public_id,
        key="k",
        request_digest="whatever",
        created_at=clock() - KEPT - timedelta(seconds=1),
    )
    path = "/rollouts/00000000-0000-7000-8000-000000000000/start"
    assert call("POST", path, {}, IDEMPOTENCY_KEY="k").json()["code"] == "not_found"
    assert not IdempotentRequest.objects.exists()


def opened(row: IdempotentRequest, secret: bytes) -> bytes:
    """The kept answer, by who has this secret and knows the scheme. Raises InvalidTag."""
    key = hmac.digest(secret, b"fleet.api.idempotency\n" + row.key.encode(), "sha256")
    body = bytes(row.body)
    return ChaCha20Poly1305(key).decrypt(body[:12], body[12:], row.request_digest.encode())


def stored() -> str:
    """Everything that the table of kept answers holds, as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT t::text, encode(body, 'escape') FROM api_idempotentrequest t")
        return "\n".join(part for row in cursor.fetchall() for part in row)


@pytest.mark.parametrize(
    ("path", "body", "shown"),
    [
        ("/tokens", TOKEN, "token"),
        ("/webhooks", {"name": "ours", "url": "https://127.0.0.1/x"}, "secret"),
        ("/users", {"role": "viewer"}, "link"),
    ],
)
def test_a_secret_that_is_shown_once_is_not_in_what_is_kept(
    call: Caller, settings: Any, path: str, body: Any, shown: str
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True
    first = call("POST", path, body, IDEMPOTENCY_KEY="k")
    assert first.status_code == 201, first.json()
    secret = first.json()[shown].encode()
    kept = stored()
    for form in (secret, secret.hex().encode(), base64.b64encode(secret)[:-4]):
        assert form.decode() not in kept
    assert first.json()["id"] not in kept, "and nothing else of the body"
    again = call("POST", path, body, IDEMPOTENCY_KEY="k")
    assert (again.content, again["Idempotent-Replayed"]) == (first.content, "true")


def test_what_is_kept_is_opened_by_the_callers_token_and_by_nothing_that_is_stored(call: Caller) -> None:
    first = call("POST", "/tokens", TOKEN, IDEMPOTENCY_KEY="k")
    row = IdempotentRequest.objects.get()
    assert opened(row, f"Bearer {call.text}".encode()) == first.content
    holder = ApiToken.objects.get(pk=call.token.pk)
    known = [
        b"", bytes(holder.digest), bytes(holder.digest).hex().encode(), holder.public_id.encode(),
        f"Bearer tfk_{holder.public_id}_".encode(), b"Bearer " + bytes(holder.digest).hex().encode(),
        f"Bearer {first.json()['token']}".encode(), the_settings.SECRET_KEY.encode(),
        the_settings.KEY_PASSPHRASE.encode(), row.request_digest.encode(), row.owner.encode(),
    ]  # fmt: skip
    for secret in known:
        with pytest.raises(InvalidTag):
            opened(row, secret)


@pytest.mark.parametrize("taken", ["body", "body and digest"])
def test_a_kept_answer_stands_for_no_other_request(call: Caller, taken: str) -> None:
    """Who can write the table, and not open it, cannot have one answer given in place of another."""
    for key in ("k1", "k2"):
        assert call("POST", "/tokens", {**TOKEN, "name": key}, IDEMPOTENCY_KEY=key).status_code == 201
    one, other = (IdempotentRequest.objects.get(key=key) for key in ("k1", "k2"))
    other.body, asked = one.body, "k2"
    if taken == "body and digest":
        other.request_digest, asked = one.request_digest, "k1"
    other.save()
    answer = call("POST", "/tokens", {**TOKEN, "name": asked}, IDEMPOTENCY_KEY="k2")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_token_with_another_secret_does_not_open_what_the_former_one_left(call: Caller) -> None:
    first = call("POST", "/tokens", TOKEN, IDEMPOTENCY_KEY="k")
    assert first.status_code == 201
    text = tokens.rotate(call.token, actor=SYSTEM, now=timezone.now(), grace=timedelta(hours=1))
    renewed = call("POST", "/tokens", TOKEN, IDEMPOTENCY_KEY="k", AUTHORIZATION=f"Bearer {text}")
    assert (renewed.status_code, renewed.json()["code"]) == (422, "idempotency_key_reused")
    assert "former secret" in renewed.json()["detail"]
    assert call("POST", "/tokens", TOKEN, IDEMPOTENCY_KEY="k").content == first.content
