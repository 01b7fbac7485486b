"""`manage.py demo`: the private stack, a fleet of virtual devices, and the story."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from fleet.client import Client, wait_for
from fleet.demo import story
from fleet.demo.report import Report
from fleet.stack.children import ChildSpec
from fleet.stack.errors import StackError
from fleet.stack.paths import PROJECT_ROOT
from fleet.stack.run import Stack, ended_by_signals

APPROVER = "dana"


class Command(BaseCommand):
    help = "Start everything, roll models out to virtual devices, take a bad one back, and keep serving."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--once", action="store_true", help="exit after the story; 0 only if all went as told"
        )
        parser.add_argument(
            "--devices", type=int, default=60, help="virtual devices, 60 or more (default: 60)"
        )
        parser.add_argument("--summary", type=Path, help="write a JSON summary here")
        parser.add_argument("--port", type=int, help="port of the console (default: a free one)")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 60 <= options["devices"] <= 500:
            raise CommandError("--devices takes 60 to 500: smaller cohorts cannot pass the gate")
        report = Report()
        try:
            with ended_by_signals(), Stack(say=report.say, console_port=options["port"]) as stack:
                info = stack.start()
                self._fleet(stack, info.run.root)
                setting = story.Setting(
                    root=PROJECT_ROOT,
                    run_dir=info.run.root,
                    devices=options["devices"],
                    url=info.web_url,
                    ca_file=info.env["FLEET_WEB_CA"],
                    api=Client(
                        info.console_url, self._manage(stack, "tokens", "issue", "demo", "--days", "1")
                    ),
                    approver=Client(info.console_url, self._approver(stack)),
                    manage=stack.manage,
                    report=report,
                    data_dir=info.run.root / "data" / "watch",
                )
                try:
                    setting.model = story.next_line(setting.api)
                    story.tell(setting)
                except Exception as error:
                    report.say(f"the story stopped: {error}")
                self.stdout.write("\n" + report.table() + "\n")
                self.stdout.write(
                    f"console {info.console_url}  (user admin, password in {info.run.root}/admin.txt)"
                )
                if options["summary"]:
                    report.write(options["summary"], console=info.console_url, devices=options["devices"])
                if not options["once"]:
                    self.stdout.write("Ctrl-C stops everything.")
                    stack.wait()
        except StackError as error:
            raise CommandError(f"{error.code}: {error}") from error
        except KeyboardInterrupt:
            self.stdout.write("stopped")
        if options["once"] and not report.is_ok:
            sys.exit(1)

    def _fleet(self, stack: Stack, run_dir: Path) -> None:
        """Start the supervisor of the virtual devices beside the stack."""
        devices = run_dir / "devices"
        stack.supervisor.start(
            ChildSpec(
                "devices",
                (
                    sys.executable,
                    "-m",
                    "device_firmware.host.supervisor",
                    "--dir",
                    str(devices),
                    "--data",
                    str(run_dir / "data" / "watch"),
                    "--ca",
                    stack.env["FLEET_WEB_CA"],
                ),
                dict(stack.env),
            )
        )
        wait_for(
            "virtual devices' supervisor",
            lambda: (True if (devices / "control.sock").exists() else None, "no control socket"),
            deadline_s=120,
        )

    def _approver(self, stack: Stack) -> str:
        """An API token of a second person: nobody approves their own plan."""
        if APPROVER not in self._manage(stack, "users", "list"):
            self._manage(stack, "users", "add", APPROVER, "--role", "approver")
        return self._manage(stack, "tokens", "issue", "demo", "--owner", APPROVER, "--days", "1")

    def _manage(self, stack: Stack, *arguments: str) -> str:
        """The last line that a `manage.py` command prints, as an administrator runs it; of a list all."""
        answer = subprocess.run(
            [sys.executable, str(PROJECT_ROOT / "manage.py"), *arguments],
            env={**os.environ, **stack.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if answer.returncode != 0:
            raise CommandError(f"manage.py {arguments[0]}: {answer.stderr[-500:]}")
        return answer.stdout if "list" in arguments else answer.stdout.strip().splitlines()[-1]
