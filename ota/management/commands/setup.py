"""`manage.py setup`: all that an installation needs before its first use; changes nothing the second time."""

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from fleet.accounts.audit import Actor
from fleet.accounts.users import FIRST_ADMIN, ensure_admin
from fleet.devices.classes import ensure_default_classes
from fleet.devices.installation import ensure_installation
from fleet.telemetry import partitions
from ota import keys
from ota.errors import OtaError

ADMIN_FILE = "admin.txt"


class Command(BaseCommand):
    help = "Make identity, keys, trust document, device classes, first administrator and static files."

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        run_dir = Path(settings.RUN_DIR)
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        installation = ensure_installation(now)
        try:
            made_keys = keys.init(now, actor=Actor("command", "setup"))
        except OtaError as problem:
            fix = f"\n  {problem.fix}" if problem.fix else ""
            raise CommandError(f"{problem.code}: {problem.text}{fix}") from problem
        classes = ensure_default_classes(now)
        partitions.make_ahead(now)
        call_command("collectstatic", interactive=False, verbosity=0)
        self.stdout.write(f"installation {installation.hex()}")
        self.stdout.write(f"signing keys {'made' if made_keys else 'kept'}: {keys.key_directory()}")
        self.stdout.write(f"device classes {', '.join(row.name for row in classes) or 'kept'}")
        self._admin(run_dir / ADMIN_FILE, ensure_admin(now))

    def _admin(self, path: Path, password: str | None) -> None:
        """Print the first administrator's password once, and leave it in a file that only the owner reads."""
        if password is None:
            self.stdout.write("first administrator kept")
            return
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(f"{FIRST_ADMIN}\n{password}\n")
        self.stdout.write(f"first administrator: {FIRST_ADMIN}  password: {password}")
        self.stdout.write(f"(shown once; also in {path}: delete that file once you have signed in)")
