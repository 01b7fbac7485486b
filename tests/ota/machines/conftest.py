"""The scene of the machines, made once a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import NOW
from tests.ota.conftest import signed_manifest
from tests.ota.machines.scene import Scene, made


@pytest.fixture
def _django_db_helper(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """In the place of pytest-django's, which empties the database behind each test and the scene with it."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def scene(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Thirty devices and four models in real transactions; the database is emptied behind the module."""
    make: Callable[..., Any] = signed_manifest(NOW)
    with django_db_blocker.unblock(), made(NOW, tmp_path_factory.mktemp("keys"), make) as scene:
        yield scene
