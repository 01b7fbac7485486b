"""API tokens: shown once, kept as a digest, refused with a code."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from fleet.accounts import tokens
from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import ApiToken, AuditEvent, Role
from fleet.accounts.scopes import ROLE_SCOPES, scopes_of
from fleet.accounts.tokens import TokenError

pytestmark = pytest.mark.django_db


def issue(owner: Any, now: Any, **given: Any) -> tuple[ApiToken, str]:
    return tokens.issue(owner, "ci", given.pop("scopes", ["devices:read"]), actor=SYSTEM, now=now, **given)


def code_of(bearer: str, now: Any) -> str:
    with pytest.raises(TokenError) as caught:
        tokens.authenticate(bearer, now=now)
    return caught.value.code


def test_an_issued_token_signs_in_and_its_secret_is_not_stored(viewer: Any, now: Any) -> None:
    token, text = issue(viewer, now)
    assert tokens.authenticate(text, now=now).pk == token.pk
    secret = text.rsplit("_", 1)[1]
    row = ApiToken.objects.filter(pk=token.pk).values().get()
    assert secret not in repr(row)
    assert bytes.fromhex(secret) not in bytes(row["digest"])
    event = AuditEvent.objects.get(verb="token.issue")
    assert event.subject_id == token.public_id
    assert secret not in repr(event.after)


def test_a_changed_secret_and_another_installations_key_are_refused(
    viewer: Any, now: Any, settings: Any
) -> None:
    _, text = issue(viewer, now)
    last = "0" if text[-1] != "0" else "1"
    assert code_of(text[:-1] + last, now) == "token_invalid"
    settings.SECRET_KEY = "the key of another installation"
    assert code_of(text, now) == "token_invalid"


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        "tfk_",
        "tfk_0123456789abcdef_",
        "bearer",
        "tfk_" + "0" * 16 + "_" + "0" * 64,
        "x" * 100_000,
        "tfk_é_é",
    ],
)
def test_what_is_not_a_token_of_ours_is_refused(bearer: str, now: Any) -> None:
    assert code_of(bearer, now) == "token_invalid"


def test_a_token_expires_is_revoked_and_dies_with_its_owner(viewer: Any, now: Any) -> None:
    _, short = issue(viewer, now, ttl=timedelta(hours=1))
    assert tokens.authenticate(short, now=now + timedelta(minutes=59))
    assert code_of(short, now + timedelta(hours=1)) == "token_expired"
    token, text = issue(viewer, now)
    assert tokens.revoke(token, actor=SYSTEM, now=now)
    assert not tokens.revoke(token, actor=SYSTEM, now=now), "the second call ends nothing"
    assert code_of(text, now) == "token_invalid"
    _, third = issue(viewer, now)
    viewer.is_active = False
    viewer.save(update_fields=["is_active"])
    assert code_of(third, now) == "token_invalid"


def test_scopes_are_at_most_the_owners_role_now(operator: Any, viewer: Any, now: Any) -> None:
    with pytest.raises(TokenError) as caught:
        issue(viewer, now, scopes=["rollouts:write"])
    assert caught.value.code == "scope_missing"
    with pytest.raises(TokenError) as caught:
        issue(viewer, now, scopes=["everything"])
    assert caught.value.code == "validation"
    token, text = issue(operator, now, scopes=["rollouts:write", "devices:read"])
    assert tokens.effective_scopes(token) == {"rollouts:write", "devices:read"}
    operator.role = Role.VIEWER
    operator.save(update_fields=["role"])
    assert tokens.effective_scopes(tokens.authenticate(text, now=now)) == {"devices:read"}


def test_last_use_is_written_at_most_once_a_minute(viewer: Any, now: Any) -> None:
    token, text = issue(viewer, now)
    tokens.authenticate(text, now=now)
    tokens.authenticate(text, now=now + timedelta(seconds=30))
    token.refresh_from_db()
    assert token.last_used_at == now
    tokens.authenticate(text, now=now + timedelta(seconds=61))
    token.refresh_from_db()
    assert token.last_used_at == now + timedelta(seconds=61)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        tokens.authenticate(text, now=now + timedelta(seconds=62))
    assert len(queries) <= 2


def test_roles_nest_as_the_table_says() -> None:
    assert ROLE_SCOPES[Role.VIEWER] < ROLE_SCOPES[Role.OPERATOR] < ROLE_SCOPES[Role.ADMIN]
    assert "models:sign" in ROLE_SCOPES[Role.APPROVER]
    assert "models:sign" not in ROLE_SCOPES[Role.OPERATOR]
    assert "rollouts:write" not in ROLE_SCOPES[Role.APPROVER]


def test_a_disabled_person_may_do_nothing(admin: Any) -> None:
    assert "keys:admin" in scopes_of(admin)
    admin.is_active = False
    assert scopes_of(admin) == frozenset()
