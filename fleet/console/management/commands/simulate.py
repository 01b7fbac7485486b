"""`manage.py simulate`: a fleet of virtual devices with scripted faults, against a running installation."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from device_firmware.host import scenario as scenarios
from device_firmware.host.control import ask
from device_firmware.host.identity import tls_context
from device_firmware.host.scenario import Scenario, ScenarioError
from device_firmware.host.scenario_kinds import faults_text
from device_firmware.host.scenario_run import ScenarioRun, table
from fleet.accounts.audit import Actor
from fleet.devices import enrolment
from fleet.devices.errors import EnrolmentError
from fleet.stack.run import ended_by_signals

SUPERVISOR_S = 120.0
UP_S = 120.0


class Command(BaseCommand):
    help = (
        "Run virtual devices (the real firmware core and TFLM, a process each) with the faults of a "
        "scenario file against a running installation: enrol them, play the faults, say what each one did."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        shipped = ", ".join(path.stem for path in sorted(scenarios.SCENARIOS.glob("*.toml")))
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = (
            f"Scenario files are TOML; their form is described in device_firmware/host/scenario.py. Shipped: "
            f"{shipped}.\nKinds of fault and what they take:\n{faults_text()}\n\n"
            "Devices are called <scenario>-0000 and so on; they are enrolled at the first run and\n"
            "keep their flash below --dir. Rollouts are made in the console or by REST, as for any fleet.\n"
            "Codes of failures: those of scenario files (unreadable, syntax, unknown_key, missing_key,\n"
            "bad_value, too_many), no_installation, no_supervisor, not_online, and what enrolment answers."
        )
        parser.add_argument(
            "scenario",
            nargs="?",
            default=scenarios.DEFAULT.stem,
            help="a file, or the name of a shipped scenario (default: %(default)s)",
        )
        parser.add_argument("--devices", type=int, help="how many, instead of the scenario's number")
        parser.add_argument("--duration", type=float, help="seconds; 0 = until Ctrl-C")
        parser.add_argument("--seed", type=int, help="of everything random")
        parser.add_argument("--class", dest="device_class", help="device class to enrol in")
        parser.add_argument(
            "--engines", type=int, default=0, help="processes that share TFLM (default: one in each device)"
        )
        parser.add_argument(
            "--dir", type=Path, help="one folder a device (default: simulate/ in the run folder)"
        )
        parser.add_argument("--data", type=Path, help="recordings (default: data/watch in the run folder)")
        parser.add_argument("--summary", type=Path, help="write the JSON summary here")
        parser.add_argument(
            "--check", action="store_true", help="only check the scenario and list its faults"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            scenario = _chosen(options)
            ids = [f"{scenario.name}-{number:04d}" for number in range(scenario.devices)]
            if options["check"]:
                self._list(scenario, ids)
                return
            self._run(scenario, ids, options)
        except ScenarioError as error:
            raise CommandError(str(error)) from error

    def _list(self, scenario: Scenario, ids: list[str]) -> None:
        for step in scenario.steps(ids):
            said = " ".join(f"{key}={value:.12g}" for key, value in step.fault.numbers.items())
            self.stdout.write(f"{step.at_s:8.1f} s  {step.device_id}  {step.fault.kind} {said}")

    def _run(self, scenario: Scenario, ids: list[str], options: dict[str, Any]) -> None:
        run_dir = Path(settings.RUN_DIR)
        folder = options["dir"] or run_dir / "simulate" / scenario.name
        # The plan is checked before anything is enrolled.
        run = ScenarioRun(folder, scenario, ids, run_s=scenario.duration_s, say=self.stdout.write)
        ca_file = os.environ.get("FLEET_WEB_CA")
        _installation(ca_file)
        folder.mkdir(parents=True, exist_ok=True)
        tickets = _tickets(scenario, ids, folder)
        command = [sys.executable, "-m", "device_firmware.host.supervisor", "--idle"]
        command += ["--dir", str(folder), "--data", str(options["data"] or run_dir / "data" / "watch")]
        command += ["--ca", ca_file] if ca_file else []
        command += ["--engines", str(options["engines"])]
        log_file = folder / "supervisor.log"
        with ended_by_signals(), log_file.open("ab") as log:
            process = subprocess.Popen(command, stderr=log, cwd=settings.BASE_DIR, start_new_session=True)
            try:
                self._up(process, folder, tickets, len(ids))
                run.drive()
            except KeyboardInterrupt:
                self.stdout.write("stopping")
            finally:
                tickets.unlink(missing_ok=True)
                summary = run.summary()
                _end(process)
        self.stdout.write(table(summary))
        self.stdout.write(f"log of the devices: {log_file}")
        if options["summary"]:
            options["summary"].write_text(json.dumps(summary, indent=1) + "\n")

    def _up(self, process: subprocess.Popen[bytes], folder: Path, tickets: Path, count: int) -> None:
        """Wait for the supervisor, enrol and start the devices, and wait until all of them run."""
        deadline = time.monotonic() + SUPERVISOR_S
        while not _answers(folder):
            if process.poll() is not None or time.monotonic() > deadline:
                tail = (folder / "supervisor.log").read_text(errors="replace")[-500:]
                raise CommandError(f"no_supervisor: it ended with {process.poll()}: {tail}")
            time.sleep(0.1)
        refused = ask(folder, {"do": "add", "tickets": str(tickets)}, timeout_s=60 + count)["refused"]
        if refused:
            device_id, code = next(iter(refused.items()))
            raise CommandError(f"{code}: {len(refused)} devices were refused, the first is {device_id}")
        deadline = time.monotonic() + UP_S
        while True:
            states = ask(folder, {"do": "status"})["devices"].values()
            up = sum("state" in one for one in states)
            if up == count:
                break
            if time.monotonic() > deadline:
                raise CommandError(f"not_online: {up} of {count} devices run after {UP_S:.0f} s")
            time.sleep(0.2)
        self.stdout.write(f"{count} virtual devices run")


def _chosen(options: dict[str, Any]) -> Scenario:
    """The scenario with what the command line changes. Raises ScenarioError, CommandError."""
    given = options["scenario"]
    shipped = scenarios.SCENARIOS / f"{given}.toml"
    is_name = "/" not in given and shipped.exists() and not Path(given).exists()
    return scenarios.read(shipped if is_name else Path(given)).changed(
        devices=options["devices"],
        duration_s=options["duration"],
        seed=options["seed"],
        device_class=options["device_class"],
    )


def _installation(ca_file: str | None) -> None:
    """Raise CommandError `no_installation` unless the backend answers."""
    url = f"{settings.PUBLIC_URL}/readyz"
    try:
        answer = httpx.get(url, verify=tls_context(ca_file), timeout=10, trust_env=False)
    except (httpx.HTTPError, OSError) as error:
        raise CommandError(
            f"no_installation: {url}: {error}; start one with `manage.py dev` and use the same FLEET_RUN_DIR"
        ) from error
    if answer.status_code != 200:
        raise CommandError(f"no_installation: {url} answered {answer.status_code}: {answer.text[:200]}")


def _tickets(scenario: Scenario, ids: list[str], folder: Path) -> Path:
    """A file of tickets, one a device; those that have their identity already get none made."""
    fresh = [one for one in ids if not (folder / one / "identity.json").exists()]
    tokens: dict[str, str] = {}
    if fresh:
        actor = Actor("command", os.environ.get("USER", "manage.py"))
        try:
            made = enrolment.create_tokens(scenario.device_class, fresh, actor=actor, now=timezone.now())
        except EnrolmentError as error:
            hint = ""
            if error.code == "device_exists":
                hint = f"; its keys are not in {folder}: give --dir, or rename the scenario"
            raise CommandError(f"{error}{hint}") from error
        tokens = dict(zip(fresh, made, strict=True))
    path = folder / "tickets.jsonl"
    lines = [
        json.dumps(
            {
                "device_id": one,
                "token": tokens.get(one, "enrolled"),
                "class": scenario.device_class,
                "url": settings.PUBLIC_URL,
            }
        )
        for one in ids
    ]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _answers(folder: Path) -> bool:
    try:
        ask(folder, {"do": "status"}, timeout_s=5)
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the supervisor and with it its devices."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
