"""Fixtures of every test: private PostgreSQL and Redis, settings that never reach outside, standing
actors, factories.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.stack.services import private_postgres, private_redis

NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the database server: `FLEET_TEST_DATABASE_URL`, else a private server for this test process.

    `DATABASE_URL` is not asked: after a demo the settings have read that one's from its `stack.env`.
    """
    if given := os.environ.get("FLEET_TEST_DATABASE_URL"):
        yield given
        return
    with private_postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a private Redis for this test process."""
    with private_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, postgres_url: str, redis_url: str
) -> None:
    """Point Django at the private servers before pytest-django makes the test database."""
    import environ
    from django.conf import settings
    from django.db import connections

    from fleet.celery import app

    given = environ.Env.db_url_config(postgres_url)
    default = connections.settings["default"]
    default.update({key: given[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")})
    settings.REDIS_URL = redis_url
    settings.CACHES["default"]["LOCATION"] = redis_url
    app.conf.broker_url = redis_url


@pytest.fixture(autouse=True)
def _private_settings(settings: Any, tmp_path: Path) -> None:
    settings.RUN_DIR = tmp_path / "run"
    settings.EXPORT_DIR = tmp_path / "exports"
    settings.COLD_DIR = ""
    settings.SLOW_COUNT_S = 3_600  # nothing is kept on a busy machine that is not on a quiet one
    settings.RUN_DIR.mkdir()
    settings.SECRET_KEY = secrets.token_hex(16)
    settings.KEY_PASSPHRASE = "a passphrase of the tests"
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def now() -> datetime:
    """A fixed clock."""
    return NOW


@pytest.fixture
def make_user(db: None) -> Callable[..., Any]:
    """Factory of users: `make_user("admin")` has role and name admin; the password is `pass-<name>-word`."""
    from fleet.accounts.models import User

    def make(role: str, name: str | None = None) -> User:
        name = name or role
        return User.objects.create_user(name, password=f"pass-{name}-word", role=role)

    return make


@pytest.fixture
def viewer(make_user: Callable[..., Any]) -> Any:
    """May read."""
    return make_user("viewer")


@pytest.fixture
def operator(make_user: Callable[..., Any]) -> Any:
    """May plan and drive rollouts."""
    return make_user("operator")


@pytest.fixture
def admin(make_user: Callable[..., Any]) -> Any:
    """May do everything."""
    return make_user("admin")
