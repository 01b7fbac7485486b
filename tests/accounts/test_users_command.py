"""`manage.py users`: adding people by command."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from fleet.accounts.models import AuditEvent, SecondFactor, User
from tests.accounts.test_second_factor import enrol

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("users", *arguments, stdout=out)
    return out.getvalue()


def test_a_person_is_added_with_a_password_that_works() -> None:
    password = run("add", "dana", "--role", "approver").strip()
    user = User.objects.get(username="dana")
    assert (user.role, user.check_password(password)) == ("approver", True)
    assert AuditEvent.objects.get(verb="user.create").actor == "manage.py users"
    assert run("list").split() == ["dana", "approver"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("add", "dana"), "validation"), (("add", "a b"), "validation"), (("add", "x" * 200), "validation")],
)
def test_a_name_in_use_or_no_name_is_refused(arguments: Any, words: str) -> None:
    run("add", "dana")
    with pytest.raises(CommandError, match=words):
        run(*arguments)
    assert User.objects.count() == 1


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(CommandError):
        run("add", "dana", "--role", "emperor")


def test_a_lost_second_factor_is_removed_and_recorded(viewer: User, now: Any) -> None:
    with pytest.raises(CommandError, match="illegal_transition"):
        run("remove-second-factor", "viewer")
    with pytest.raises(CommandError, match="not_found"):
        run("remove-second-factor", "nobody")
    enrol(viewer, now)
    assert "removed" in run("remove-second-factor", "viewer", "--reason", "phone lost")
    viewer.refresh_from_db()
    assert (viewer.second_factor, SecondFactor.objects.count()) == ("", 0)
    row = AuditEvent.objects.get(verb="second_factor.remove")
    assert (row.actor, row.subject_id, row.reason) == ("manage.py users", "viewer", "phone lost")
