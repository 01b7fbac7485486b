"""API tokens: shown once, kept as a digest, refused with a code."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from structlog.testing import capture_logs

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


def test_a_rotated_token_keeps_its_id_and_its_former_secret_ends_at_once(viewer: Any, now: Any) -> None:
    token, text = issue(viewer, now, ttl=timedelta(days=9))
    new = tokens.rotate(token, actor=SYSTEM, now=now)
    assert code_of(text, now) == "token_invalid"
    found = tokens.authenticate(new, now=now)
    assert (found.pk, found.public_id, found.expires_at) == (token.pk, token.public_id, token.expires_at)
    event = AuditEvent.objects.get(verb="token.rotate")
    assert event.after == {"name": "ci", "former_until": None}
    assert new.rsplit("_", 1)[1] not in repr(ApiToken.objects.values().get())


def test_a_former_secret_is_taken_until_its_grace_is_over_and_never_more_than_one(
    viewer: Any, now: Any
) -> None:
    token, first = issue(viewer, now)
    hour = timedelta(hours=1)
    second = tokens.rotate(token, actor=SYSTEM, now=now, grace=hour)
    assert ApiToken.objects.get().former_used_at is None
    late = now + hour - timedelta(seconds=1)
    assert tokens.authenticate(first, now=late).former_used_at == late
    assert code_of(first, now + hour) == "token_invalid"
    assert tokens.authenticate(second, now=now + hour)
    third = tokens.rotate(token, actor=SYSTEM, now=now, grace=hour)
    assert code_of(first, now) == "token_invalid"
    assert tokens.authenticate(second, now=now)
    tokens.revoke(token, actor=SYSTEM, now=now)
    assert {code_of(text, now) for text in (first, second, third)} == {"token_invalid"}


def test_what_is_over_or_changed_meanwhile_gets_no_new_secret(viewer: Any, now: Any) -> None:
    token, text = issue(viewer, now, ttl=timedelta(hours=1))
    late = now + timedelta(hours=1)
    for moment, grace, code in (
        (now, timedelta(days=8), "validation"),
        (now, -timedelta(hours=1), "validation"),
        (late, timedelta(0), "illegal_transition"),
    ):
        with pytest.raises(TokenError) as caught:
            tokens.rotate(token, actor=SYSTEM, now=moment, grace=grace)
        assert caught.value.code == code
    old = ApiToken.objects.get()
    tokens.change(token, allowed_from=["10.0.0.0/8"], actor=SYSTEM, now=now)
    with pytest.raises(TokenError, match="stale"):
        tokens.rotate(old, actor=SYSTEM, now=now)
    assert tokens.authenticate(text, now=now, address="10.1.2.3")
    tokens.revoke(token, actor=SYSTEM, now=now)
    token.refresh_from_db()
    with pytest.raises(TokenError) as caught:
        tokens.rotate(token, actor=SYSTEM, now=now)
    assert (caught.value.state, caught.value.allowed) == ("revoked", [])
    assert not AuditEvent.objects.filter(verb="token.rotate").exists()


def test_a_token_is_unknown_outside_its_networks(viewer: Any, now: Any) -> None:
    token, text = issue(viewer, now, allowed_from=["10.1.0.0/16", "2001:db8::/32", "192.0.2.7"])
    assert token.networks == ["10.1.0.0/16", "2001:db8::/32", "192.0.2.7/32"]
    issued = AuditEvent.objects.get(verb="token.issue").after
    assert issued is not None
    assert issued["networks"] == token.networks
    for inside in ("10.1.255.255", "2001:db8::1", "192.0.2.7", "::ffff:10.1.0.1"):
        assert tokens.authenticate(text, now=now, address=inside)
    for outside in ("10.2.0.0", "192.0.2.8", "2001:db9::1", "::ffff:10.2.0.1", "", "unix:", "10.1.0.0/16"):
        with pytest.raises(TokenError) as caught:
            tokens.authenticate(text, now=now, address=outside)
        with pytest.raises(TokenError) as unknown:
            tokens.authenticate("tfk_" + "0" * 16 + "_" + "0" * 64, now=now, address=outside)
        assert str(caught.value) == str(unknown.value), "a thief learns nothing"
    row = ApiToken.objects.get()
    tokens.change(row, allowed_from=None, actor=SYSTEM, now=now)
    assert tokens.authenticate(text, now=now, address="198.51.100.1")
    event = AuditEvent.objects.get(verb="token.change")
    assert (event.before, event.after) == ({"networks": token.networks}, {"networks": None})


@pytest.mark.parametrize(
    "networks",
    [
        [],
        ["10.1.2.3/16"],
        ["10.0.0.0/33"],
        ["example.org"],
        [""],
        ["0" * 4000],
        [f"10.0.0.{n}" for n in range(17)],
    ],
)
def test_networks_that_are_none_are_refused(networks: list[str], viewer: Any, now: Any) -> None:
    with pytest.raises(TokenError) as caught:
        issue(viewer, now, allowed_from=networks)
    assert (caught.value.code, caught.value.field) == ("validation", "networks")
    assert len(caught.value.text) < 200
    assert not ApiToken.objects.exists()


def test_a_use_from_outside_is_in_the_log_with_id_and_address(viewer: Any, now: Any) -> None:
    token, text = issue(viewer, now, allowed_from=["10.1.0.0/16"])
    with capture_logs() as said:
        tokens.authenticate(text, now=now, address="10.1.2.3")
        with pytest.raises(TokenError):
            tokens.authenticate(text, now=now, address="10.2.0.1")
    (line,) = said
    assert (line["event"], line["log_level"]) == ("token_outside_networks", "warning")
    assert (line["token"], line["address"]) == (token.public_id, "10.2.0.1")
    assert text.rsplit("_", 1)[1] not in repr(line)


def test_what_is_over_is_bound_to_no_other_networks(viewer: Any, now: Any) -> None:
    expired, _ = issue(viewer, now, ttl=timedelta(hours=1))
    revoked, _ = issue(viewer, now)
    read_before = ApiToken.objects.get(pk=revoked.pk)
    tokens.revoke(revoked, actor=SYSTEM, now=now)
    revoked.refresh_from_db()
    for token, code in (
        (expired, "illegal_transition"),
        (revoked, "illegal_transition"),
        (read_before, "stale"),
    ):
        with pytest.raises(TokenError) as caught:
            tokens.change(token, allowed_from=None, actor=SYSTEM, now=now + timedelta(hours=1))
        assert caught.value.code == code
    with pytest.raises(TokenError, match="stale"):
        tokens.rotate(read_before, actor=SYSTEM, now=now)
    assert not AuditEvent.objects.filter(verb__in=["token.change", "token.rotate"]).exists()


def test_a_secret_that_was_shown_holds_as_long_as_it_is_taken(viewer: Any, now: Any) -> None:
    token, first = issue(viewer, now)
    shown = tokens.authenticate(first, now=now).shown
    second = tokens.rotate(token, actor=SYSTEM, now=now, grace=timedelta(hours=1))
    assert tokens.is_taken(token, shown, now=now + timedelta(minutes=59))
    assert not tokens.is_taken(token, shown, now=now + timedelta(hours=1))
    assert tokens.is_taken(token, tokens.authenticate(second, now=now).shown, now=now + timedelta(hours=1))
    assert not tokens.is_taken(token, b"", now=now)
