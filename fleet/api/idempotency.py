"""Idempotency-Key: a repeated POST gets the first answer again, with `Idempotent-Replayed: true`.

Every POST that changes something takes a key; the API gives it to each that is not in READS, so that no route
is forgotten. Answers may hold what is shown once (the text of a token, the secret of a webhook): what is kept
of them is sealed with a key that only the caller has, made of their token's secret and their Idempotency-Key.
"""

import functools
import hashlib
import hmac
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from django.db import IntegrityError, OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from ninja import Status
from ninja.operation import Operation
from psycopg.errors import LockNotAvailable

from fleet.api.errors import ApiProblem
from fleet.api.models import IdempotentRequest
from fleet.api.revisions import tag
from fleet.form_digest import form_digest

KEPT = timedelta(hours=24)
WAIT_S = 2
"""How long a repeated request waits for the first one, which still runs."""
MAX_KEY: Final = 64
READS: Final = frozenset({"/groups:preview", "/rollouts:preview", "/telemetry:query"})
"""Paths whose POST changes nothing, and so takes no key."""
_MARK: Final = "_idempotent"
_NONCE: Final = 12
_HEADERS: Final = ("ETag", "Location")


def idempotent(*, is_required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a ninja view function (below the route, so that the caller is authenticated first).

    The view returns a body, a pair of status and body, or ninja's Status. It runs in one transaction with its
    key. An error is not kept: the same request may be tried again.
    Problems: `idempotency_key_required`, `idempotency_key_reused` (another body), `idempotency_in_progress`.
    """

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            def run() -> HttpResponse:
                return _render(view(request, *args, **kwargs), kwargs.get("response"))

            key = request.headers.get("Idempotency-Key", "")
            if not key and not is_required:
                return run()
            if not 1 <= len(key) <= MAX_KEY:
                raise ApiProblem(
                    "idempotency_key_required", "send Idempotency-Key: 1 to 64 characters of your choice"
                )
            return _once(request, key, run)

        setattr(wrapped, _MARK, is_required)
        return wrapped

    return decorate


def take_key(operation: Operation) -> None:
    """Have an operation take the key, when it is a POST that changes something, and its document tell it."""
    if "POST" not in operation.methods or operation.path in READS or not operation.auth_callbacks:
        return  # a device that enrols has no token; its own token, spent once, does the same
    if not hasattr(operation.view_func, _MARK):
        operation.view_func = idempotent(is_required=False)(operation.view_func)
    parameter = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": getattr(operation.view_func, _MARK),
        "description": "Repeated with the same key within 24 hours, the request gets its first answer again.",
        "schema": {"type": "string", "maxLength": MAX_KEY},  # an empty header is none
    }
    extra = operation.openapi_extra or {}
    operation.openapi_extra = {**extra, "parameters": [*extra.get("parameters", []), parameter]}


def _render(result: Any, given: HttpResponse | None) -> HttpResponse:
    """A view's result as an answer. given: the response whose headers it has set, if it asked for one."""
    status, body = 200, result
    if isinstance(result, Status):
        status, body = result.status_code, result.value
    elif isinstance(result, tuple):
        status, body = result
    answer = JsonResponse(body, status=status, safe=False)
    if isinstance(body, dict) and isinstance(body.get("rev"), int):
        tag(answer, body["rev"])
    if status == 202 and "progress" in body:  # an operation
        answer["Location"] = f"/api/v1/operations/{body['id']}"
    for name in _HEADERS:
        if given is not None and name in given:
            answer[name] = given[name]
    return answer


def _once(request: HttpRequest, key: str, run: Callable[[], HttpResponse]) -> HttpResponse:
    """Key, change and answer commit together: after a crash there is either all of it or nothing.

    What follows the commit (`transaction.on_commit`) may fail: that is the answer then, and no other is kept.
    """
    owner = request.auth.public_id  # type: ignore[attr-defined]
    digest = _digest(request)
    now = timezone.now()
    IdempotentRequest.objects.filter(created_at__lt=now - KEPT).delete()
    mine: IdempotentRequest | None = None
    try:
        with transaction.atomic():
            mine = _claim(owner, key, digest, now)
            if mine is None:
                return _replay(request, IdempotentRequest.objects.get(owner=owner, key=key), digest)
            answer = _kept(request, mine, run)
    except Exception:
        if mine is not None:
            IdempotentRequest.objects.filter(pk=mine.pk).delete()
        raise
    if isinstance(answer, Exception):
        raise answer
    return answer


def _kept(
    request: HttpRequest, row: IdempotentRequest, run: Callable[[], HttpResponse]
) -> HttpResponse | Exception:
    """The answer, which the row holds from now on, or why there is none, and no row."""
    try:
        answer = run()
    except Exception as error:  # what the verb itself committed stays: it may move a state and refuse
        if connection.needs_rollback:  # the database refused a statement: nothing of this can stay
            raise
        row.delete()
        return error
    row.status, row.body = answer.status_code, _sealed(request, row.key, row.request_digest, answer.content)
    row.headers = {name: answer[name] for name in _HEADERS if name in answer}
    row.save(update_fields=["status", "body", "headers"])
    return answer


def _digest(request: HttpRequest) -> str:
    """SHA-256 over method, path and body; of a form, which is read already, over its fields and files."""
    if request.content_type == "multipart/form-data":
        return form_digest(request)
    head = f"{request.method} {request.get_full_path()}\n".encode()
    return hashlib.sha256(head + request.body).hexdigest()


def _claim(owner: str, key: str, digest: str, now: datetime) -> IdempotentRequest | None:
    """The row of this key, made here; None when an earlier request left its answer there."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
            row = IdempotentRequest.objects.create(
                owner=owner, key=key, request_digest=digest, created_at=now
            )
            cursor.execute("SET LOCAL lock_timeout = DEFAULT")
            return row
    except IntegrityError:
        return None
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        raise ApiProblem(
            "idempotency_in_progress", "the first request with this key still runs; ask again soon"
        ) from error


def _replay(request: HttpRequest, row: IdempotentRequest, digest: str) -> HttpResponse:
    if row.request_digest != digest:
        raise ApiProblem("idempotency_key_reused", "this key was used for another request; choose a new one")
    body = bytes(row.body)
    try:
        content = _cipher(request, row.key).decrypt(body[:_NONCE], body[_NONCE:], digest.encode())
    except (InvalidTag, ValueError):
        detail = "the first answer is sealed with this token's former secret; choose a new key"
        raise ApiProblem("idempotency_key_reused", detail) from None
    answer = HttpResponse(content, status=row.status, content_type="application/json", headers=row.headers)
    answer["Idempotent-Replayed"] = "true"
    return answer


def _sealed(request: HttpRequest, key: str, digest: str, content: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + _cipher(request, key).encrypt(nonce, content, digest.encode())


def _cipher(request: HttpRequest, key: str) -> ChaCha20Poly1305:
    """256 bits that the database does not have: a token's secret is kept as a digest with another key."""
    secret = request.headers.get("Authorization", "").encode()
    return ChaCha20Poly1305(hmac.digest(secret, b"fleet.api.idempotency\n" + key.encode(), "sha256"))
