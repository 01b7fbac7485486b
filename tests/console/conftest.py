"""Fixtures of the console's tests: a filled database, and clients of people who are signed in."""

from __future__ import annotations

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


@pytest.fixture
def as_role(make_user: Callable[..., Any]) -> Callable[[str], Client]:
    """Client of a person of a role: `as_role("viewer")`."""

    def sign_in(role: str) -> Client:
        client = Client()
        client.force_login(make_user(role, f"{role}-of-test"))
        return client

    return sign_in
