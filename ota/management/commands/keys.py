"""`manage.py keys init | list`: the installation's signing keys."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from fleet.accounts.audit import Actor
from ota import keys
from ota.errors import OtaError
from ota.models import SigningKey


class Command(BaseCommand):
    help = "Make the signing keys and the first trust document (init), or list them (list)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["init", "list"])

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["action"] == "init":
                self._init()
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
