"""`manage.py tokens`: issue, list and revoke API tokens."""

import argparse
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from fleet.accounts import tokens
from fleet.accounts.audit import Actor
from fleet.accounts.models import ApiToken, User
from fleet.accounts.scopes import scopes_of

ACTOR = Actor("command", "manage.py tokens")


class Command(BaseCommand):
    help = "Issue, list and revoke API tokens. The token itself is printed once and never again."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        issue = verbs.add_parser("issue", help="make a token and print it")
        issue.add_argument("name", help="what it is for")
        issue.add_argument("--owner", default="admin", help="user it acts for (default: admin)")
        issue.add_argument("--scope", action="append", help="repeatable; default: all its owner has")
        issue.add_argument("--days", type=int, default=90, help="valid for so many days (default: 90)")
        verbs.add_parser("list", help="list tokens")
        revoke = verbs.add_parser("revoke", help="end a token for good")
        revoke.add_argument("id", help="its public id, the part after tfk_")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["verb"]:
            case "issue":
                self.stdout.write(self._issue(options))
            case "list":
                for token in ApiToken.objects.select_related("owner"):
                    self.stdout.write(
                        f"{token.public_id}  {token.owner.username:<16} {_life(token):<18} {token.name}"
                    )
            case "revoke":
                found = ApiToken.objects.filter(public_id=options["id"]).first()
                if found is None:
                    raise CommandError(
                        f"not_found: no token {options['id']}; `manage.py tokens list` shows them"
                    )
                tokens.revoke(found, actor=ACTOR, now=timezone.now())
                self.stdout.write(f"revoked {found.public_id}")

    def _issue(self, options: dict[str, Any]) -> str:
        owner = User.objects.filter(username=options["owner"]).first()
        if owner is None:
            raise CommandError(
                f"not_found: no user {options['owner']}; `manage.py setup` makes the first one"
            )
        scopes = options["scope"] or sorted(scopes_of(owner))
        now = timezone.now()
        try:
            _, text = tokens.issue(
                owner, options["name"], scopes, actor=ACTOR, now=now, ttl=timedelta(days=options["days"])
            )
        except tokens.TokenError as error:
            raise CommandError(f"{error.code}: {error.text}") from error
        return text


def _life(token: ApiToken) -> str:
    if token.revoked_at:
        return "revoked"
    return f"until {token.expires_at:%Y-%m-%d}" if token.expires_at else "no end"
