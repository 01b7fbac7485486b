"""`manage.py dev`: the whole stack, without the story of `deploy/demo`, until Ctrl-C."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet.stack import product
from fleet.stack.errors import StackError
from fleet.stack.run import Stack, ended_by_signals


class Command(BaseCommand):
    """Start the private stack, print its address, serve until interrupted."""

    help = "Start PostgreSQL, Redis, Mosquitto, web, worker, beat and gateway; Ctrl-C stops them all."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--port", type=int, help="port of the console (default: the one used last time)")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run the stack; another outcome than Ctrl-C is an error with its reason."""
        try:
            with ended_by_signals(), Stack(say=self.stdout.write, console_port=options["port"]) as stack:
                info = stack.start()
                stack.supervisor.start(product.attendant(info.run, info.env))
                self.stdout.write(f"\nConsole   {info.console_url}\nAPI       {info.web_url}/api/v1/docs")
                if (password := info.run.root / "admin.txt").exists():
                    self.stdout.write(f"Sign in   admin, with the password in {password}")
                self.stdout.write(f"Devices   {info.web_url} (authority: {info.env['FLEET_WEB_CA']})")
                self.stdout.write(f"Logs      {info.run.logs}\n\nCtrl-C stops everything.")
                stack.wait()
        except StackError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.stdout.write("\nstopped")
