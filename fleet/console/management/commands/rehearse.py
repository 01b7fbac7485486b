"""`manage.py rehearse`: a rollout's plan against virtual devices, in a private installation."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from device_firmware.host import scenario as scenarios
from device_firmware.host.scenario import Scenario, ScenarioError
from device_firmware.host.scenario_run import ScenarioRun
from fleet.client import ApiError, NotReached, Unreachable
from fleet.rehearsal import scaling, stage, subject, telling
from fleet.rehearsal.errors import RehearsalError
from fleet.rehearsal.scaling import DEVICES_MAX, Small
from fleet.rehearsal.stage import Stage
from fleet.rehearsal.subject import Subject
from fleet.stack.errors import StackError
from fleet.stack.paths import RunDir
from fleet.stack.run import Stack, ended_by_signals
from ota.errors import OtaError

USAGE, FAILED = 2, 1
_OURS = ("DATABASE_URL", "REDIS_URL", "FLEET_")


class Command(BaseCommand):
    help = (
        "Run a rollout's plan against virtual devices with the faults of a scenario file, in a private "
        "installation that is thrown away, and say what its gates would have done."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = (
            "The rollout, its versions and its device classes are copied and signed again with other keys;\n"
            "this installation is only read. What is scaled is printed. Exit status: 0 the copy completed,\n"
            "3 it was halted or taken back, 2 wrong use, 1 the rehearsal itself failed."
        )
        parser.add_argument("rollout", nargs="?", help="id or name")
        parser.add_argument("--scenario", help="a TOML file, or the name of a shipped one")
        parser.add_argument("--devices", type=int, help="virtual devices (default: the scenario's number)")
        parser.add_argument(
            "--speed", type=float, default=720.0, help="clocks run so much faster (default: 720)"
        )
        parser.add_argument("--data", type=Path, help="recordings (default: data/watch in the run folder)")
        parser.add_argument("--json", type=Path, help="write what was seen here")
        parser.add_argument(
            "--limit", type=float, default=3600.0, help="most seconds for the copy (default: 3600)"
        )
        parser.add_argument("--twins", type=Path, help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        if options["twins"]:
            stage.make_twins(json.loads(options["twins"].read_text()))
            return
        began = time.monotonic()
        try:
            if not options["rollout"] or not options["scenario"]:
                raise RehearsalError("validation", "a rollout and --scenario are needed")
            scenario = _scenario(options["scenario"])
            what = subject.read(options["rollout"], now=timezone.now())
            counts = {name: count for name, (_, count) in what.classes.items()}
            devices = options["devices"] or scenario.devices
            small = scaling.scale(what.plan, counts, devices=devices, speed=options["speed"])
            told = self._rehearse(what, small, scenario.changed(devices=devices), options, began)
        except RehearsalError as error:
            raise CommandError(str(error), returncode=USAGE if error.is_usage else FAILED) from error
        except (ScenarioError, OtaError) as error:
            raise CommandError(str(error), returncode=USAGE) from error
        except (StackError, ApiError, NotReached, Unreachable, OSError) as error:
            raise CommandError(f"went_otherwise: {error}", returncode=FAILED) from error
        except KeyboardInterrupt:
            raise CommandError("interrupted: everything is stopped and removed", returncode=130) from None
        self.stdout.write(telling.table(told))
        if options["json"]:
            options["json"].write_text(json.dumps(told, indent=1) + "\n")
        if not told["is_completed"]:
            sys.exit(telling.STOPPED)

    def _rehearse(
        self, what: Subject, small: Small, scenario: Scenario, options: dict[str, Any], began: float
    ) -> dict[str, Any]:
        """Hold it in a folder that goes away, whatever happens."""

        def say(text: str) -> None:
            self.stdout.write(f"{time.monotonic() - began:6.1f} s  {text}")
            self.stdout.flush()

        data = options["data"] or Path(settings.RUN_DIR) / "data" / "watch"
        with (
            _forgetting_this_installation(),
            tempfile.TemporaryDirectory(prefix="rehearsal-") as folder,
            ended_by_signals(),
        ):
            for note in small.notes:
                say(note)
            with Stack(RunDir(Path(folder)), say=say) as stack:
                stand = Stage(stack, stack.start(), data=data, say=say)
                ids = stand.enrol(what, small.devices)
                say(f"{len(ids)} virtual devices are online")
                baseline = ""
                if what.baseline is not None:
                    stand.release(what.model, what.baseline, what.slot)
                    baseline = stand.start_baseline(what, what.baseline)
                stand.release(what.model, what.candidate, what.slot)  # while the devices install
                if what.baseline is not None:
                    stand.await_baseline(baseline)
                    say(f"all run {what.model} {what.baseline.version}")
                    window_s = small.plan["settle_s"] + small.plan["window_s"]
                    stand.collect_history(min(small.plan["history_s"], window_s))
                rollout = stand.start(what, what.name, what.candidate.version, small.plan)
                run = ScenarioRun(
                    stand.devices_dir, scenario, ids, run_s=options["limit"], say=lambda _: None
                )
                follow = _Follow(stand, rollout, say)
                run.drive(is_over=follow.is_over)
                if not follow.is_ended:
                    raise RehearsalError(
                        "went_otherwise",
                        f"not over after {options['limit']:.0f} s: {follow.seen['sentence']}",
                        is_usage=False,
                    )
                seconds = time.monotonic() - began
                return telling.summary(
                    what, small, follow.seen, run.summary(), speed=options["speed"], seconds=seconds
                )


@contextlib.contextmanager
def _forgetting_this_installation() -> Iterator[None]:
    """No process started inside inherits a variable that leads to this installation's database or broker."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    for name in ours:
        del os.environ[name]
    os.environ["FLEET_APPROVAL_OVER"] = str(DEVICES_MAX)  # nobody approves a rehearsal
    try:
        yield
    finally:
        del os.environ["FLEET_APPROVAL_OVER"]
        os.environ.update(ours)


class _Follow:
    """Says each new sentence of a rollout until it is over."""

    def __init__(self, stand: Stage, rollout: str, say: stage.Say) -> None:
        self._stand = stand
        self._rollout = rollout
        self._say = say
        self._said = ""
        self.seen: dict[str, Any] = {}
        self.is_ended = False

    def is_over(self) -> bool:
        """Look once. Raises the StackError of a child that failed for good."""
        looks = iter((False, True))  # once around: that is when a failure is raised
        self._stand.stack.supervisor.wait(until=lambda: next(looks))
        self.seen = self._stand.seen(self._rollout)
        news = re.sub(r"(open|soaking) \d[^:]*:", r"\1:", self.seen["sentence"])
        if news != self._said:
            self._said = news
            self._say(news)
        self.is_ended = stage.is_over(self.seen)
        return self.is_ended


def _scenario(given: str) -> Scenario:
    shipped = scenarios.SCENARIOS / f"{given}.toml"
    is_name = "/" not in given and shipped.exists() and not Path(given).exists()
    return scenarios.read(shipped if is_name else Path(given))
