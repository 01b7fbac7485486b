"""Idempotency-Key: a repeated POST gets the first answer again, with `Idempotent-Replayed: true`."""

import functools
import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, OperationalError, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from psycopg.errors import LockNotAvailable

from fleet.api.errors import ApiProblem
from fleet.api.models import IdempotentRequest
from fleet.api.revisions import tag

KEPT = timedelta(hours=24)
WAIT_S = 2
"""How long a repeated request waits for the first one, which still runs."""


def idempotent(*, is_required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a ninja view function (below the route, so that the caller is authenticated first).

    The view returns a body, or a pair of status and body. An error is not kept: the same request may be
    tried again.
    Problems: `idempotency_key_required`, `idempotency_key_reused` (another body), `idempotency_in_progress`.
    """

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            key = request.headers.get("Idempotency-Key", "")
            if not key and not is_required:
                return _render(view(request, *args, **kwargs))
            if not 1 <= len(key) <= 64:
                raise ApiProblem(
                    "idempotency_key_required", "send Idempotency-Key: 1 to 64 characters of your choice"
                )
            return _once(request, key, lambda: _render(view(request, *args, **kwargs)))

        return wrapped

    return decorate


def _render(result: Any) -> HttpResponse:
    status, body = result if isinstance(result, tuple) else (200, result)
    return _tagged(JsonResponse(body, status=status, safe=False), body)


def _tagged(answer: HttpResponse, body: Any) -> HttpResponse:
    """Name the revision that a body tells, and where the operation of a 202 is: the first answer and its
    replay carry the same ETag and Location.
    """
    if isinstance(body, dict) and isinstance(body.get("rev"), int):
        tag(answer, body["rev"])
    if answer.status_code == 202:
        answer["Location"] = f"/api/v1/operations/{body['id']}"
    return answer


def _once(request: HttpRequest, key: str, run: Callable[[], HttpResponse]) -> HttpResponse:
    """Key, change and answer commit together: after a crash there is either all of it or nothing."""
    owner = request.auth.public_id  # type: ignore[attr-defined]
    path = f"{request.method} {request.get_full_path()}\n"
    digest = hashlib.sha256(path.encode() + request.body).hexdigest()
    now = timezone.now()
    IdempotentRequest.objects.filter(created_at__lt=now - KEPT).delete()
    failure: Exception | None = None
    with transaction.atomic():
        row = _claim(owner, key, digest, now)
        if row is None:
            return _replay(IdempotentRequest.objects.get(owner=owner, key=key), digest)
        try:
            answer = run()
        except Exception as error:  # what the verb itself committed stays: it may move a state and refuse
            failure = error
            row.delete()
        else:
            row.status, row.body = answer.status_code, answer.content
            row.save(update_fields=["status", "body"])
    if failure is not None:
        raise failure
    return answer


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


def _replay(row: IdempotentRequest, digest: str) -> HttpResponse:
    if row.request_digest != digest:
        raise ApiProblem("idempotency_key_reused", "this key was used for another request; choose a new one")
    answer = HttpResponse(bytes(row.body), status=row.status, content_type="application/json")
    answer["Idempotent-Replayed"] = "true"
    return _tagged(answer, json.loads(bytes(row.body)))
