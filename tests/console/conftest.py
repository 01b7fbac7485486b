"""Fixtures of the console's tests: a filled database, and clients of people who are signed in."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from tests.console import rows


@pytest.fixture
def present() -> datetime:
    """Now: pages print relative times and look back from the real clock."""
    return rows.present()


@pytest.fixture
def filled(db: None, present: datetime) -> rows.Filled:
    """A fleet of 80 devices with versions, rollouts and telemetry."""
    return rows.fill(present)


def show_again(client: Client, *, ago_s: float = 0) -> None:
    """Let the client's session have shown the password `ago_s` seconds ago."""
    session = client.session
    session["asked_at"] = time.time() - ago_s
    session.save()


@pytest.fixture
def as_role(make_user: Callable[..., Any]) -> Callable[[str], Client]:
    """Client of a person of a role who has just shown the password: `as_role("viewer")`."""

    def sign_in(role: str) -> Client:
        client = Client()
        client.force_login(make_user(role, f"{role}-of-test"))
        show_again(client)
        return client

    return sign_in
