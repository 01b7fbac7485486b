"""The whole stack with a fleet of virtual devices, started once for all end-to-end tests of a process."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.client import Client, wait_for
from fleet.demo import plans, story
from fleet.demo.report import Report, Step
from fleet.stack.children import ChildSpec
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.run import Stack, StackInfo
from tests.models.watch import watch_dir

DEVICES = 64


@dataclasses.dataclass
class Fleet:
    """A running installation: the stack, where it answers, and the story's view of it."""

    stack: Stack
    info: StackInfo
    setting: story.Setting

    @property
    def api(self) -> Client:
        """A client with an administrator's token."""
        return self.setting.api

    @property
    def password(self) -> str:
        """The first administrator's password."""
        return (self.info.run.root / "admin.txt").read_text().split()[-1]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """64 enrolled virtual devices that all run activity 1.0.0."""
    run = RunDir(tmp_path_factory.mktemp("run") / "run")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")
    }
    report = Report()
    with Stack(run, say=report.say, environ=environment) as stack:
        info = stack.start()
        devices = info.run.root / "devices"
        data = watch_dir()
        spec = ChildSpec(
            "devices",
            (
                sys.executable,
                "-m",
                "device_firmware.host.supervisor",
                *("--dir", str(devices), "--data", str(data), "--ca", info.env["FLEET_WEB_CA"]),
            ),
            dict(info.env),
        )
        stack.supervisor.start(spec)
        wait_for(
            "supervisor", lambda: (True if (devices / "control.sock").exists() else None, ""), deadline_s=60
        )
        setting = story.Setting(
            root=PROJECT_ROOT,
            run_dir=info.run.root,
            devices=DEVICES,
            url=info.web_url,
            ca_file=info.env["FLEET_WEB_CA"],
            api=Client(info.console_url, issue_token(info)),
            approver=Client(info.console_url, issue_token(info, approver(info))),
            manage=stack.manage,
            report=report,
            data_dir=data,
        )
        story.enrol(setting, Step("a", "enrol"))
        story.release(setting, Step("b", "release"), "1.0.0", "activity-v1")
        rollout = story.roll_out(setting, "first", "1.0.0", plans.everyone())
        story.ended(setting, Step("b", "roll out"), rollout, "completed", deadline_s=240)
        yield Fleet(stack, info, setting)


def issue_token(info: StackInfo, owner: str = "admin") -> str:
    """A person's token, by the command an administrator would use."""
    return manage(info, "tokens", "issue", "tests", "--owner", owner)


def approver(info: StackInfo) -> str:
    """Name of a second person, who approves what the administrator plans."""
    manage(info, "users", "add", "dana", "--role", "approver")
    return "dana"


def manage(info: StackInfo, *arguments: str) -> str:
    """The last line that a `manage.py` command prints."""
    answer = subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "manage.py"), *arguments],
        env={**os.environ, **info.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return answer.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def shots() -> Path:
    """Folder for screenshots, kept with the run."""
    folder = PROJECT_ROOT / ".run" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
