"""Kill everything but the database at random moments of a rollout, again and again; see that nothing is lost.

    python -m tests.e2e.killing [--devices 300] [--runs 10] [--seed 1] [--kib 64] [--keep FOLDER]
    python -m tests.e2e.killing --devices 10000 --runs 0 --deadline 1800     # nobody is killed

A whole stack, and a swarm of true firmware cores with a played engine, stated as such. In each run a further
version goes to the fleet in three waves, and worker, beat, gateway, broker and Redis are each killed (SIGKILL
to the process group) when a random share of the devices has confirmed; the broker loses its persistence file
with it, Redis keeps nothing anyway. Each run must end `completed` with every device on the new version, and
`tests.e2e.conservation` must find nothing wrong. Before them version 1 goes to the fleet with nobody killed;
that is all of it with `--runs 0`, for a live fleet of any size. Telemetry flows all the time. Exit status 0:
all did; the table says what was killed when, and how much telemetry was stored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fleet.client import Client, NotReached, wait_for
from fleet.stack.paths import RunDir
from fleet.stack.run import Stack, ended_by_signals
from tests.e2e import swarm_fleet
from tests.e2e.conftest import issue_token

VICTIMS = ("worker", "beat", "gateway", "mosquitto", "redis")
MOMENTS = (0.02, 0.95)
"""Share of confirmed devices between which the victims die."""
ENDED = frozenset({"completed", "halted", "aborted", "rolled_back", "rollback_incomplete", "cancelled"})


@dataclass
class Run:
    """What happened in one run. killed: victim -> share of devices that had confirmed when it was killed.
    windows: telemetry windows stored meanwhile.
    """

    number: int
    killed: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    state: str = ""
    waves: str = ""
    confirmed: int = 0
    attempts: int = 0
    windows: int = 0
    wrong: list[str] = field(default_factory=list)


def plan(devices: int) -> dict[str, Any]:
    """Three waves and a control cohort; hard gates only, for the played engine has no accuracy."""
    return {
        "waves": [{"count": max(2, devices // 15)}, {"percent": 50}, {"percent": 100}],
        "control": {"count": max(1, devices // 15)},
        "max_in_flight": max(4, devices // 5),
        "max_in_flight_later": max(4, devices // 5),
        "soak_s": 2,
        "max_soak_s": 600,
        "trial_deadline_s": 600,
        "on_fail": "halt",
    }


class Killer:
    """One stack with its fleet, and a rollout at a time."""

    def __init__(self, stack: Stack, api: Client, *, devices: int, kib: int, seed: int) -> None:
        self.stack = stack
        self.api = api
        self.devices = devices
        self.kib = kib
        self.seed = seed
        self.random = random.Random(seed)

    def install_first(self, deadline_s: float) -> Run:
        """Version 1 everywhere, with nobody killed: every later run moves the fleet by one version."""
        run = Run(0)
        self._roll_out(run, [], deadline_s)
        if run.state != "completed" or run.wrong:
            raise SystemExit(f"the first version did not arrive: {run.state}, {run.wrong}")
        return run

    def run(self, number: int, deadline_s: float) -> Run:
        """One rollout with every victim killed once. Never raises for what the rollout did."""
        run = Run(number)
        moments = sorted((self.random.uniform(*MOMENTS), name) for name in VICTIMS)
        self._roll_out(run, moments, deadline_s)
        return run

    def _roll_out(self, run: Run, kills: list[tuple[float, str]], deadline_s: float) -> None:
        from fleet.telemetry.models import Window
        from ota.models import Job, Rollout
        from tests.e2e import conservation

        now = datetime.now(UTC)
        manifest = swarm_fleet.make_model(run.number + 1, self.kib, self.seed, now=now)
        began, left = time.monotonic(), list(kills)
        self._wait_staged(manifest.pk)
        body = {"name": f"run {run.number}", "model": "swarm", "version": manifest.version.version, "slot": 0}
        made = self.api.post("/rollouts", {**body, "target": {}, "plan": plan(self.devices)})
        self.api.post(f"/rollouts/{made['id']}/preflight")
        self.api.post(f"/rollouts/{made['id']}/start")
        jobs = Job.objects.filter(rollout=made["id"])

        def look() -> tuple[str | None, str]:
            share = jobs.filter(state="confirmed").count() / self.devices
            while left and share >= left[0][0]:
                _, name = left.pop(0)
                self._kill(name)
                run.killed[name] = share
                say(f"      {name} killed with {share:.0%} confirmed")
            state = Rollout.objects.values_list("state", flat=True).get(pk=made["id"])
            return (state if state in ENDED else None), f"{state}, {share:.0%} confirmed"

        try:
            run.state = wait_for("the end", look, deadline_s=deadline_s, every_s=0.2)
            wait_for("every victim back", self._all_back, deadline_s=60)
        except NotReached as problem:
            run.wrong.append(str(problem))
        run.seconds = round(time.monotonic() - began, 1)
        run.windows = Window.objects.filter(ts__gte=now).count()
        facts = conservation.facts(made["id"], devices=self.devices)
        run.state = facts.state
        run.waves, run.confirmed, run.attempts = facts.waves, facts.confirmed, facts.attempts
        run.wrong += facts.wrong
        run.wrong += [f"{name} was never killed" for _, name in left]

    def _wait_staged(self, manifest_id: str) -> None:
        from ota.models import Staging

        def look() -> tuple[bool | None, str]:
            row = Staging.objects.get(manifest_id=manifest_id)
            return (True if row.state == "staged" else None), f"{row.state} {row.published} {row.error}"

        wait_for("chunks staged", look, deadline_s=120, every_s=0.2)

    def _kill(self, name: str) -> None:
        """SIGKILL to the process group; the broker loses its store too, before it is started again."""
        os.killpg(self.stack.supervisor.pid(name), signal.SIGKILL)
        if name == "mosquitto":
            for file in self.stack.run.mosquitto.glob("mosquitto.db*"):
                file.unlink()

    def _all_back(self) -> tuple[bool | None, str]:
        down = [name for name in (*VICTIMS, "web") if not self.stack.supervisor.is_running(name)]
        return (None if down else True), f"down: {down}"


def say(text: str) -> None:
    """A line of progress, at once."""
    print(text, file=sys.stderr, flush=True)


def perform(args: argparse.Namespace, folder: Path) -> list[Run]:
    """Stack, fleet, first version, then the runs. Leaves nothing running."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")
    }
    if args.devices > 1_000:
        environment.setdefault("FLEET_BROKER_SAVES", "5")
    runs: list[Run] = []
    os.environ["FLEET_APPROVAL_OVER"] = str(args.devices)  # one person runs this
    with Stack(RunDir(folder), say=say, has_plain_mqtt=True, environ=environment) as stack:
        info = stack.start()
        os.environ.update(info.env, DJANGO_SETTINGS_MODULE="fleet.settings")
        import django

        django.setup()
        say(f"enrolling {args.devices} devices")
        answers = swarm_fleet.enrol(args.devices, now=datetime.now(UTC))
        file = swarm_fleet.fleet_file(folder / "fleet", answers)
        assert stack.plain_mqtt_port is not None
        stack.supervisor.start(swarm_fleet.swarm(file, args.devices, stack.plain_mqtt_port, args.seed))
        api = Client(info.console_url, issue_token(info))
        api.post("/devices:config", {"config": swarm_fleet.config(args.devices)})
        _wait_online(args.devices)
        killer = Killer(stack, api, devices=args.devices, kib=args.kib, seed=args.seed)
        runs.append(killer.install_first(args.deadline))
        say(f"version 1: completed after {runs[0].seconds} s")
        for number in range(1, args.runs + 1):
            run = killer.run(number, args.deadline)
            runs.append(run)
            say(
                f"run {number}: {run.state} after {run.seconds} s"
                + "".join(f"\n      {w}" for w in run.wrong)
            )
            if run.state != "completed":
                break  # the next run would start from another state
    return runs


def _wait_online(count: int) -> None:
    from fleet.devices.models import Device

    def look() -> tuple[bool | None, str]:
        online = Device.objects.filter(presence="online", reported_at__isnull=False).count()
        return (True if online == count else None), f"{online} of {count} online"

    wait_for("every device online", look, deadline_s=120 + 3 * count / swarm_fleet.CONNECTIONS_S)


def table(runs: list[Run], devices: int) -> str:
    """What a person reads: a line a run."""
    order = " ".join(f"{name:>9}" for name in VICTIMS)
    counts = f"{'confirmed':>9} {'attempts':>8} {'windows':>8} {'s':>6}"
    lines = [f"run  {order}  {'end':<10} {'waves':<22} {counts}  wrong"]
    for run in runs:
        killed = " ".join(f"{run.killed[n]:>9.0%}" if n in run.killed else f"{'-':>9}" for n in VICTIMS)
        lines.append(
            f"{run.number:>3}  {killed}  {run.state:<10} {run.waves:<22} {run.confirmed:>5}/{devices}"
            f" {run.attempts:>7} {run.windows:>8} {run.seconds:>6}  {'; '.join(run.wrong) or 'nothing'}"
        )
    return "\n".join(["killed when this share of the devices had confirmed:", *lines])


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.e2e.killing", description=__doc__)
    options.add_argument("--devices", type=int, default=300)
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kib", type=int, default=64, help="size of each version")
    options.add_argument("--deadline", type=float, default=600.0, help="seconds a run may take")
    options.add_argument("--json", type=Path, help="write every run here")
    options.add_argument("--keep", type=Path, help="copy the logs of every service here at the end")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="killing-") as folder, ended_by_signals():
        try:
            runs = perform(args, Path(folder) / "run")
        finally:
            if args.keep:
                shutil.copytree(RunDir(Path(folder) / "run").logs, args.keep, dirs_exist_ok=True)
    print(table(runs, args.devices))
    if args.json:
        args.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    is_good = len(runs) == args.runs + 1 and all(run.state == "completed" and not run.wrong for run in runs)
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
