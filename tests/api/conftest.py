"""A caller of the API: `call("GET", "/devices")` with an administrator's token, `call.as_role("viewer")`
with another's.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import User
from fleet.accounts.scopes import scopes_of
from ota.models import Manifest
from tests.ota.conftest import installation as installation
from tests.ota.conftest import make_manifest as make_manifest
from tests.ota.world import World


class Caller:
    """One token's holder. Answers are Django test responses; `.json()` parses them."""

    def __init__(
        self,
        client: Client,
        make_user: Callable[..., User],
        role: str,
        scopes: Iterable[str] | None = None,
        groups: Iterable[str] | None = None,
    ) -> None:
        self._client = client
        self._make_user = make_user
        owner = User.objects.filter(username=role).first() or make_user(role)
        given = scopes_of(owner) if scopes is None else scopes
        limit = None if groups is None else list(groups)
        self.token, self.text = tokens.issue(
            owner, "test", given, actor=SYSTEM, now=timezone.now(), group_limit=limit
        )

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        given = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        given.setdefault("HTTP_AUTHORIZATION", f"Bearer {self.text}")
        content = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        return getattr(self._client, method.lower())(f"/api/v1{path}", **content, **given)

    def send(self, method: str, path: str, data: bytes, kind: str, **headers: str) -> Any:
        """Any request whose body is bytes of a media type."""
        given = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        return self._client.generic(
            method, f"/api/v1{path}", data, kind, HTTP_AUTHORIZATION=f"Bearer {self.text}", **given
        )

    def as_role(
        self, role: str, scopes: Iterable[str] | None = None, groups: Iterable[str] | None = None
    ) -> "Caller":
        """The same for another person, or for a token with these scopes only, or limited to these groups."""
        return Caller(self._client, self._make_user, role, scopes, groups)

    def upload(self, model: str, file: bytes | None, meta: Any, *, evaluation: bytes | None = None) -> Any:
        """POST a version as multipart. meta: text is sent as it is, anything else as JSON."""
        parts: dict[str, Any] = {"meta": meta if isinstance(meta, str) else json.dumps(meta)}
        if file is not None:
            parts["file"] = SimpleUploadedFile("m.tflite", file)
        if evaluation is not None:
            parts["evaluation"] = SimpleUploadedFile("e.npz", evaluation)
        return self._client.post(
            f"/api/v1/models/{model}/versions", parts, HTTP_AUTHORIZATION=f"Bearer {self.text}"
        )


@pytest.fixture
def call(client: Client, make_user: Callable[..., User]) -> Caller:
    """An administrator's caller."""
    return Caller(client, make_user, "admin")


@pytest.fixture
def world(make_manifest: Callable[..., Manifest]) -> World:
    """A fleet that lives in the present, as the API's clock does; it has history of the last hour."""
    return World(clock() - timedelta(hours=1), make_manifest)


def clock() -> datetime:
    """The API's clock."""
    return timezone.now()
