"""A drifting tenth of a live fleet pauses the rollout under way: the whole stack, nothing planted.

    python -m tests.e2e.drifting [--devices 64] [--deadline 900] [--offset 1.5]

Virtual devices run 1.0.0; a rollout of 2.0.0 reaches nine tenths of them and soaks. When their sketches have
made a reference, what a tenth of one class senses is shifted by an offset. The rule `drift` with action
`pause` then has to open one alert for that class and version, and pause the rollout, while mean confidence
rises. Printed: what was seen and when. Exit 1 when it went otherwise. About five minutes on a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from device_firmware.host.supervisor import ask
from fleet.client import Client, wait_for
from fleet.demo import plans, story
from fleet.demo.report import Report, Step
from fleet.stack.children import ChildSpec
from fleet.stack.paths import PROJECT_ROOT, RunDir
from fleet.stack.run import Stack
from tests.e2e.conftest import approver, issue_token
from tests.models.watch import watch_dir

CLASS = "host-a"
CONFIG = {"window_s": 5, "period_ms": 150, "heartbeat_s": 10, "sketch_s": 40}
"""Some 260 inferences a sketch: 200 are the least that is judged."""
PLAN: dict[str, Any] = {
    **plans.everyone(), "waves": [{"percent": 90}, {"percent": 100}], "soak_s": 7_200, "max_soak_s": 14_400,
}  # fmt: skip


@dataclasses.dataclass
class Drill:
    """A running installation with devices that can be made to drift."""

    setting: story.Setting
    deadline_s: float

    def run(self, offset: float) -> dict[str, Any]:
        """The story; what was seen of the alert. Raises NotReached and WentOtherwise."""
        setting, api = self.setting, self.setting.api
        story.enrol(setting, Step("a", "enrol"))
        api.post("/devices:config", {"config": CONFIG})
        for version, file in (("1.0.0", "activity-v1"), ("2.0.0", "activity-v2")):
            story.release(setting, Step("b", "release"), version, file)
        first = story.roll_out(setting, "first", "1.0.0", plans.everyone())
        story.ended(setting, Step("b", "roll out"), first, "completed", deadline_s=240)
        rule = wait_for("the default rules", self._rule, deadline_s=90)
        api.call(
            "PATCH",
            "/alert-rules/drift",
            json={"action": "pause"},
            headers={"If-Match": f'"{rule["version"]}"'},
        )
        rollout = story.roll_out(setting, "second", "2.0.0", PLAN)
        exposed = self._exposed(rollout)
        self._quiet(len(exposed))
        drifting = exposed[: max(4, setting.devices // 10)]
        for device in drifting:
            ask(setting.device_dir, {"do": "fault", "device": device, "kind": "sensor", "offset": offset})
        setting.report.say(
            f"{len(drifting)} of {len(exposed)} exposed devices of {CLASS} drift by {offset:+g}"
        )
        alert = self._alert(set(drifting))
        paused = wait_for("the pause", lambda: self._paused(rollout), deadline_s=90)
        return {"alert": alert, "rollout": paused, "drifting": len(drifting), "exposed": len(exposed)}

    def _rule(self) -> tuple[dict[str, Any] | None, str]:
        """The rule, which the first evaluation makes within a minute."""
        found = [one for one in self.setting.api.every("/alert-rules") if one["name"] == "drift"]
        return (found[0] if found else None), "no rule drift yet"

    def _exposed(self, rollout: str) -> list[str]:
        """Devices of CLASS that run the candidate, once all that were offered it do."""

        def look() -> tuple[list[str] | None, str]:
            jobs = list(self.setting.api.every(f"/rollouts/{rollout}/jobs"))
            done = [job["device"] for job in jobs if job["state"] == "confirmed"]
            return (
                done if jobs and len(done) == len(jobs) else None
            ), f"{len(done)} of {len(jobs)} confirmed"

        done = set(wait_for("the first wave", look, deadline_s=self.deadline_s))
        return sorted(
            row["id"] for row in self.setting.api.every("/devices", **{"class": CLASS}) if row["id"] in done
        )

    def _quiet(self, devices: int) -> None:
        """Wait until the candidate's windows have a reference: what a page shows as judged devices."""
        import psycopg

        def look() -> tuple[int | None, str]:
            with psycopg.connect(os.environ["DATABASE_URL"]) as database:
                row = database.execute(
                    "SELECT count(DISTINCT f.device_id), count(*) FILTER (WHERE f.worst > 1)"
                    " FROM tele_drift f JOIN tele_version v ON v.id = f.version_id WHERE v.version = '2.0.0'"
                    " AND f.device_class = %s", (CLASS,)
                ).fetchone()  # fmt: skip
            assert row is not None
            return (
                row[0] if row[0] == devices else None
            ), f"{row[0]} of {devices} judged, {row[1]} windows over"

        wait_for("a reference of the candidate", look, deadline_s=self.deadline_s, every_s=5)

    def _alert(self, drifting: set[str]) -> dict[str, Any]:
        """The alert of the class and version, when it names every drifting device."""

        def look() -> tuple[dict[str, Any] | None, str]:
            found = [
                a for a in self.setting.api.every("/alerts", rule="drift") if a["severity"] == "critical"
            ]
            named = {device for a in found for device in a["evidence"].get("devices", [])}
            return (
                found[0] if found and drifting <= named else None
            ), f"{len(found)} alerts naming {sorted(named)}"

        found = wait_for("the alert", look, deadline_s=self.deadline_s, every_s=5)
        return dict(self.setting.api.get(f"/alerts/{found['id']}"))

    def _paused(self, rollout: str) -> tuple[dict[str, Any] | None, str]:
        seen = self.setting.api.get(f"/rollouts/{rollout}")
        return (seen if seen["state"] == "paused" else None), f"{seen['state']}: {seen['sentence']}"


def main() -> int:
    """Command line entry."""
    options = argparse.ArgumentParser(prog="python -m tests.e2e.drifting", description=__doc__)
    options.add_argument("--devices", type=int, default=64)
    options.add_argument("--deadline", type=float, default=900, help="seconds of each wait")
    options.add_argument("--offset", type=float, default=1.5)
    args = options.parse_args()
    report = Report()
    clean = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "FLEET_RUN_DIR")}
    with tempfile.TemporaryDirectory(prefix="drifting-") as folder:
        run = RunDir(Path(folder) / "run")
        with Stack(run, say=report.say, environ=clean) as stack:
            info = stack.start()
            os.environ["DATABASE_URL"] = info.env["DATABASE_URL"]
            devices, data = info.run.root / "devices", watch_dir()
            words = ("-m", "device_firmware.host.supervisor", "--dir", str(devices), "--data", str(data))
            spec = ChildSpec(
                "devices", (sys.executable, *words, "--ca", info.env["FLEET_WEB_CA"]), dict(info.env)
            )
            stack.supervisor.start(spec)
            wait_for("supervisor", lambda: ((devices / "control.sock").exists() or None, ""), deadline_s=60)
            setting = story.Setting(
                root=PROJECT_ROOT, run_dir=info.run.root, devices=args.devices, url=info.web_url,
                ca_file=info.env["FLEET_WEB_CA"], api=Client(info.console_url, issue_token(info)),
                approver=Client(info.console_url, issue_token(info, approver(info))), manage=stack.manage,
                report=report, data_dir=data,
            )  # fmt: skip
            found = Drill(setting, args.deadline).run(args.offset)
    return _judged(found)


def _judged(found: dict[str, Any]) -> int:
    evidence, rollout = found["alert"]["evidence"], found["rollout"]
    print(json.dumps(evidence, indent=1))
    print(f"{found['alert']['severity']} alert of {found['alert']['scope']}")
    print(f"rollout {rollout['state']}: {rollout['sentence']} {rollout['reason']}")
    rose = evidence["confidence"] > evidence["confidence_usual"]
    print(f"mean confidence {evidence['confidence_usual']:.3f} -> {evidence['confidence']:.3f}")
    print(f"{found['drifting']} of {found['exposed']} devices drift, {evidence['firing']} are told of")
    return 0 if rose else 1


if __name__ == "__main__":
    raise SystemExit(main())
