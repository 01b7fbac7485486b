"""`manage.py users`: add a person, list them, let somebody in again who lost their second factor."""

import argparse
import secrets
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError
from django.utils import timezone

from fleet.accounts import second_factor
from fleet.accounts.audit import Actor
from fleet.accounts.models import Role, User
from fleet.accounts.users import create_user

ACTOR = Actor("command", "manage.py users")


class Command(BaseCommand):
    help = (
        "Add a person, list them, or remove a second factor that was lost. A password is made here, printed "
        "once and never again."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        add = verbs.add_parser("add", help="add a person and print the password")
        add.add_argument("name", help="user name")
        add.add_argument("--role", choices=Role.values, default=Role.VIEWER, help="default: viewer")
        verbs.add_parser("list", help="list people")
        remove = verbs.add_parser("remove-second-factor", help="let the password alone sign somebody in")
        remove.add_argument("name", help="user name")
        remove.add_argument("--reason", default="", help="for the audit trail")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["verb"] == "list":
            for user in User.objects.order_by("username"):
                self.stdout.write(f"{user.username:<24} {user.role}{'' if user.is_active else ', disabled'}")
            return
        if options["verb"] == "remove-second-factor":
            self._remove(options["name"], options["reason"][:500])
            return
        password = secrets.token_urlsafe(15)
        try:
            User(username=options["name"], password="unset", role=options["role"]).full_clean(  # noqa: S106
                exclude=["password"]
            )
            create_user(options["name"], Role(options["role"]), password, actor=ACTOR, now=timezone.now())
        except (ValidationError, IntegrityError) as error:
            said = "; ".join(error.messages) if isinstance(error, ValidationError) else "the name is in use"
            raise CommandError(f"validation: {said}") from error
        self.stdout.write(password)

    def _remove(self, name: str, reason: str) -> None:
        user = User.objects.filter(username=name).first()
        if user is None:
            raise CommandError(f"not_found: no user {name}; `manage.py users list` shows them")
        if not second_factor.remove(user, actor=ACTOR, now=timezone.now(), reason=reason):
            raise CommandError(f"illegal_transition: {name} has no second factor")
        self.stdout.write(f"removed the second factor of {name}")
