"""`manage.py keys init | list | revoke`: the installation's signing keys."""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from fleet.accounts.audit import Actor
from ota import key_revocation, keys
from ota.errors import OtaError
from ota.models import SigningKey


class Command(BaseCommand):
    help = "Make the signing keys and the first trust document, list them, or revoke one."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("init", help="make the keys and the first trust document")
        actions.add_parser("list", help="every key, and what the trust document says")
        revoke = actions.add_parser("revoke", help="trust a release or online key no more, for good")
        revoke.add_argument("kid", help="its id, 16 hexadecimal digits")
        revoke.add_argument("--reason", required=True, help="for people and the audit trail")
        revoke.add_argument("--dry-run", action="store_true", help="only tell what it would do")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["action"] == "init":
                self._init()
            if options["action"] == "revoke":
                self._revoke(options)
            self._list()
        except OtaError as problem:
            fix = f"\n  {problem.fix}" if problem.fix else ""
            raise CommandError(f"{problem.code}: {problem.text}{fix}") from problem

    def _init(self) -> None:
        if keys.init(timezone.now(), actor=Actor("command", "keys init")):
            self.stdout.write(
                f"Keys made. The root keys are the files root-*.pem in {keys.key_directory()}: in "
                "production, move them to a machine that is not on the network."
            )
        else:
            self.stdout.write("Keys exist already; nothing changed.")

    def _revoke(self, options: dict[str, Any]) -> None:
        """Tell what rests on the key, and whether devices hear of it."""
        actor = Actor("command", os.environ.get("USER", "manage.py"))
        given = {"reason": options["reason"], "dry_run": options["dry_run"]}
        found = key_revocation.revoke(options["kid"], actor=actor, now=timezone.now(), **given)
        would = "would be " if options["dry_run"] else ""
        self.stdout.write(f"{found.role} key {found.kid} {would}revoked")
        for pk, name in found.rollouts:
            self.stdout.write(f"  halts rollout {name} ({pk})")
        if found.trust is None:
            self.stdout.write(
                "  the root keys are not here: devices trust it until a document says otherwise"
            )
        else:
            self.stdout.write(f"  trust document {found.trust} tells the devices")

    def _list(self) -> None:
        trust, _ = keys.current_trust()
        for key in SigningKey.objects.all():
            place = (
                "held here"
                if key.private_pem is not None
                else "file"
                if key.role == keys.ROOT
                else "elsewhere"
            )
            state = "revoked" if key.revoked_at else "live"
            self.stdout.write(f"{key.role:<8} {key.kid}  {state:<8} {place}")
        self.stdout.write(
            f"trust document {trust.version}: {trust.root_threshold} of {len(trust.roots)} roots, "
            f"{trust.release_threshold} of {len(trust.release)} release keys"
        )
