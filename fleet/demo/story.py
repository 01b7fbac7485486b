"""The story `deploy/demo` tells: a fleet gets a model, a better one, and a worse one that the system takes
back by itself.

Everything goes through the doors people have: enrolment tickets, REST, MQTT. The demo reads no table and
calls no verb directly.
"""

import dataclasses
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from device_firmware.host.supervisor import ask
from fleet.client import ApiError, Client, wait_for
from fleet.demo import plans
from fleet.demo.report import Report, Step

CLASSES = ("host-a", "host-b")
REFUSED = {
    "crash-slice": {"probe_crash"},
    "hang": {"probe_timeout"},
    "too-large": {"too_large"},
    "op-missing": {"op_missing"},
    "truncated": {"schema", "not_tflite"},
}  # file -> codes one of which must be given
ENDED = (
    "completed",
    "halted",
    "rolled_back",
    "aborted",
    "preflight_failed",
    "rollback_incomplete",
    "cancelled",
    "rejected",
)


@dataclasses.dataclass
class Setting:
    """What the story acts on: paths, the API, and how to run a `manage.py` command."""

    root: Path
    run_dir: Path
    devices: int
    url: str
    ca_file: str
    api: Client
    approver: Client  # another person: nobody approves their own plan
    manage: Callable[..., int]
    report: Report
    data_dir: Path  # recordings and evaluation sets
    model: str = "activity"  # the model line of this telling

    @property
    def device_dir(self) -> Path:
        """One folder a virtual device."""
        return self.run_dir / "devices"


class WentOtherwise(Exception):
    """A step ended differently from what the story tells."""


def expect(is_so: bool, text: str) -> None:
    """Raise WentOtherwise unless it is so."""
    if not is_so:
        raise WentOtherwise(text)


def tell(setting: Setting) -> None:
    """Run steps (a) to (f). Raises what the first failing step raised; the report has it too."""
    report = setting.report
    with report.step("a", f"enrol {setting.devices} virtual devices of two classes") as step:
        enrol(setting, step)
    with report.step("b", "activity v1: upload, sign, stage, roll out to all") as step:
        release(setting, step, "1.0.0", "activity-v1")
        rollout = roll_out(setting, f"{setting.model} 1.0.0 to all", "1.0.0", plans.everyone())
        ended(setting, step, rollout, "completed", deadline_s=180)
        step.facts["running 1.0.0"] = (
            f"{running(setting).get(f'{setting.model} 1.0.0', 0)} of {setting.devices}"
        )
        expect(
            running(setting).get(f"{setting.model} 1.0.0") == setting.devices, f"running: {running(setting)}"
        )
    with report.step("c", "activity v2, better: first wave, half, all, against a control") as step:
        release(setting, step, "2.0.0", "activity-v2")
        # it starts by itself, approved by somebody else, when the fleet has some history with 1.0.0
        plan = plans.gated(setting.devices) | {"requires_approval": True, "start_at": plans.soon()}
        rollout = roll_out(setting, f"{setting.model} 2.0.0, gated", "2.0.0", plan)
        end = ended(setting, step, rollout, "completed", deadline_s=400)
        tell_gate(step, end)
        tell_start(step, end)
        expect(
            running(setting).get(f"{setting.model} 2.0.0") == setting.devices, f"running: {running(setting)}"
        )
    with report.step("d", "activity v3, installs perfectly but works worse: halted and taken back") as step:
        release(setting, step, "3.0.0", "activity-v3")
        upload_refused(setting)  # one of them hangs for two deadlines: read in (e)
        history(setting)
        rollout = roll_out(setting, f"{setting.model} 3.0.0, gated", "3.0.0", plans.gated(setting.devices))
        end = ended(setting, step, rollout, "rolled_back", deadline_s=300)
        tell_gate(step, end)
        exposed = end["waves"][0]["size"]
        step.facts["exposed"] = exposed
        expect(end["waves"][1]["state"] in ("cancelled", "pending"), "the second wave opened")
        expect(
            running(setting).get(f"{setting.model} 2.0.0") == setting.devices, f"running: {running(setting)}"
        )
    with report.step("e", "files that no device may get: refused with a code") as step:
        refuse(setting, step)
    with report.step("f", "two power cuts during a download, and a flipped bit in a chunk") as step:
        survive(setting, step)


def next_line(api: Client) -> str:
    """Name for the next telling: devices never go back in a model's sequence, so each telling has a line
    of its own.

    Raises WentOtherwise after eight: a device remembers eight names, so that none can be rolled back by
    forgetting.
    """
    told = {item["name"] for item in api.every("/models") if item["last_seq"] > 0}
    for number in range(1, 9):
        name = "activity" if number == 1 else f"activity-{number}"
        if name not in told:
            return name
    raise WentOtherwise("the story was told eight times here: delete the run folder to start afresh")


def enrol(setting: Setting, step: Step) -> None:
    """One-time tickets for every device; each claims its identity over HTTPS and comes online."""
    tickets = setting.run_dir / "tickets.jsonl"
    tickets.unlink(missing_ok=True)
    known = {device["id"] for device in setting.api.every("/devices")}
    setting.devices = max(setting.devices, len(known))  # an earlier telling's devices take part
    share = -(-setting.devices * 2 // 3)
    lines = []
    for name, count, first in ((CLASSES[0], share, 0), (CLASSES[1], setting.devices - share, share)):
        ids = [f"dev-{first + i:03d}" for i in range(count)]
        fresh = [device_id for device_id in ids if device_id not in known]
        if not fresh:
            continue
        part = setting.run_dir / f"tickets-{name}.jsonl"
        status = setting.manage("devices", "enrol", "--class", name, "--out", str(part), *fresh)
        expect(status == 0, f"manage.py devices enrol ended with {status}")
        lines.append(part.read_text())
        part.unlink()
    tickets.touch(mode=0o600)
    tickets.write_text("".join(lines))
    answer = ask(setting.device_dir, {"do": "add", "tickets": str(tickets)}, timeout_s=120)
    tickets.unlink()
    expect(not answer["refused"], f"refused: {answer['refused']}")

    def look() -> tuple[int | None, str]:
        states = Counter(device["presence"] for device in setting.api.every("/devices"))
        return (states["online"] if states["online"] >= setting.devices else None), str(dict(states))

    online = wait_for("all devices online", look, deadline_s=60)
    setting.api.post("/devices:config", {"config": plans.DEVICE_CONFIG})
    step.facts["online"] = online


def release(setting: Setting, step: Step, version: str, file: str) -> None:
    """Upload with an evaluation set, wait for the verdict, sign, wait until every chunk is on the broker."""
    existing = {item["version"] for item in _versions(setting)}
    path = setting.root / "deploy" / "models" / f"{file}.tflite"
    evaluation = "activity-eval-rotated.npz" if file.endswith("v3") else "activity-eval.npz"
    if version not in existing:
        setting.api.upload(
            setting.model, (path.name, path.read_bytes()), {"version": version}, setting.data_dir / evaluation
        )
    seen = verdict(setting, setting.model, version)
    expect(seen["state"] != "refused", f"{version}: {seen['code']} {seen['text']}")
    if seen.get("manifest") is None:
        setting.api.post(f"/models/{setting.model}/versions/{version}/release", {"slot": 0})

    def look() -> tuple[dict[str, Any] | None, str]:
        now = setting.api.get(f"/models/{setting.model}/versions/{version}")
        staging = now.get("staging") or {}
        return (now if staging.get("state") == "staged" else None), f"{now['state']}, {staging}"

    staged = wait_for(f"{version} staged", look, deadline_s=60)
    step.facts["chunks"] = staged["staging"]["chunks"]


def _versions(setting: Setting) -> list[dict[str, Any]]:
    try:
        setting.api.get(f"/models/{setting.model}")
    except ApiError as error:
        if error.status != 404:
            raise
        setting.api.post(
            "/models", {"name": setting.model, "description": "Exercise recognition on a smart watch"}
        )
    return list(setting.api.every(f"/models/{setting.model}/versions"))


def verdict(setting: Setting, model: str, version: str) -> dict[str, Any]:
    """Wait until inspector, probe and preflight have spoken."""

    def look() -> tuple[dict[str, Any] | None, str]:
        seen = setting.api.get(f"/models/{model}/versions/{version}")
        return (seen if seen["state"] not in ("uploaded", "inspecting") else None), str(seen["state"])

    return wait_for(f"verdict on {version}", look, deadline_s=120)


def roll_out(
    setting: Setting, name: str, version: str, plan: dict[str, Any], devices: list[str] | None = None
) -> str:
    """Create a rollout, submit it, have it approved when it must be, and start it unless it starts by itself.

    Returns its id.
    """
    body = {
        "name": name,
        "model": setting.model,
        "version": version,
        "slot": 0,
        "target": {"classes": [], "devices": devices or []},
        "plan": plan,
    }
    made = setting.api.post("/rollouts", body)
    path = f"/rollouts/{made['id']}"
    setting.api.post(f"{path}/submit")

    def look() -> tuple[str | None, str]:
        seen = setting.api.get(path)
        if seen["state"] in ENDED:
            raise WentOtherwise(f"{seen['state']}: {seen['sentence']}")
        if seen["state"] == "awaiting_approval":
            approve(setting, path)
        goes_on = seen["state"] in ("ready", "scheduled", "running")
        return (seen["state"] if goes_on else None), f"{seen['state']}: {seen['sentence']}"

    if wait_for("preflight", look, deadline_s=60) == "ready" and not plan.get("start_at"):
        setting.api.post(f"{path}/start")
    return str(made["id"])


def await_start(setting: Setting, rollout: str) -> None:
    """Wait until a worker has carried out the start that was asked for. Raises WentOtherwise if it failed."""

    def look() -> tuple[str | None, str]:
        seen = setting.api.get(f"/rollouts/{rollout}")
        if seen["state"] == "draft" or seen["state"] in ENDED:
            raise WentOtherwise(f"{seen['state']}: {seen['sentence']}")
        return (seen["state"] if seen["state"] == "running" else None), seen["sentence"]

    wait_for("the start", look, deadline_s=60)


def approve(setting: Setting, path: str) -> None:
    """The author is refused; the other person reads what was submitted and approves exactly that."""
    about = setting.approver.get(path)["approval"]["submission"]
    digests = {name: about[name] for name in ("manifest_sha256", "plan_digest", "target_digest")}
    try:
        setting.api.post(f"{path}/approve", digests)
    except ApiError as error:
        expect(error.code == "approver_is_author", f"the author got {error.code}")
    else:
        raise WentOtherwise("the author approved their own plan")
    setting.approver.post(f"{path}/approve", digests | {"reason": "read plan and preflight"})


def tell_start(step: Step, end: dict[str, Any]) -> None:
    """Put who approved, and how late a scheduled start was, into the step."""
    at, started = (datetime.fromisoformat(end[name]) for name in ("start_at", "started_at"))
    step.facts["approved by"] = end["approval"]["approved_by"]
    step.facts["started"] = f"{(started - at).total_seconds():.1f} s after its time"
    expect(bool(end["approval"]["approved_by"]) and started >= at, f"{step.facts}")


def ended(setting: Setting, step: Step, rollout: str, state: str, *, deadline_s: float) -> dict[str, Any]:
    """Follow a rollout to its end, saying each new sentence. Raises WentOtherwise for another end."""
    said = [""]

    def look() -> tuple[dict[str, Any] | None, str]:
        seen = setting.api.get(f"/rollouts/{rollout}")
        news = re.sub(r"(open|soaking) \d[^:]*:", r"\1:", seen["sentence"])
        if news != said[0]:
            said[0] = news
            setting.report.say(f"    {news}")
        is_halted_for_good = seen["state"] == "halted" and seen["plan"]["on_fail"] == "halt"
        is_over = seen["state"] == state or seen["state"] in ENDED[3:] or is_halted_for_good
        return (seen if is_over else None), f"{seen['state']}: {news}"

    end = wait_for(f"rollout {state}", look, deadline_s=deadline_s)
    expect(end["state"] == state, f"{end['state']}: {end['sentence']}")
    step.facts["rollout"] = state
    return end


def tell_gate(step: Step, end: dict[str, Any]) -> None:
    """Put what the accuracy gate said of every judged wave, and the least effect it can show, into the
    step.
    """
    for gate in end["gates"]:
        for row in gate["rows"]:
            if row["rule"].startswith("quality:accuracy"):
                step.facts[f"wave {gate['wave']}"] = f"{row['verdict']}: {row['text']}"
    detectable = end["summary"].get("detectable")
    if detectable and detectable["drop"]:
        step.facts["least drop it can show"] = f"{detectable['drop']:.0%} with {detectable['pairs']} pairs"


def running(setting: Setting) -> Counter[str]:
    """How many devices run which model and version, as they reported it."""
    found: Counter[str] = Counter()
    for device in setting.api.every("/devices"):
        run = next((slot["run"] for slot in device["slots"] if slot["slot"] == 0), None)
        found[f"{run['model']} {run['version']}" if run else "nothing"] += 1
    return found


def history(setting: Setting, *, windows_s: float = plans.HISTORY_S) -> None:
    """Let the fleet collect some history with its present model: the gate compares each device with
    itself.
    """
    setting.report.say(f"    {windows_s:.0f} s of history with the present model")
    time.sleep(windows_s)


def upload_refused(setting: Setting) -> None:
    """Upload files that crash TFLM, hang, do not fit a class, or need an operator that a class lacks."""
    folder = setting.run_dir / "refused-models"
    made = subprocess.run(
        [sys.executable, "-m", "tests.models.make_models", "--to", str(folder), "--only", *REFUSED],
        cwd=setting.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    expect(made.returncode == 0, made.stderr[-500:])
    existing = {item["version"] for item in _versions(setting)}
    for file, version in _refused_versions():
        if version not in existing:
            data = (folder / f"{file}.tflite").read_bytes()
            setting.api.upload(setting.model, (f"{file}.tflite", data), {"version": version})


def refuse(setting: Setting, step: Step) -> None:
    """Read the verdict on each file of `upload_refused`: none may go onto a device."""
    for file, version in _refused_versions():
        codes = REFUSED[file]
        seen = verdict(setting, setting.model, version)
        found = {seen["code"]} | {item["code"] for item in seen["verdicts"] if item["kind"] == "refuse"}
        step.facts[file] = "/".join(sorted(found & codes)) or "/".join(sorted(found - {""})) or seen["state"]
        expect(bool(found & codes), f"{file}: expected {codes}, got {found} in state {seen['state']}")


def _refused_versions() -> list[tuple[str, str]]:
    return [(file, f"0.0.{number}") for number, file in enumerate(REFUSED, start=1)]


def survive(setting: Setting, step: Step) -> None:
    """A model of many segments: one device loses power twice, another gets a chunk with a flipped bit."""
    victim, flipped = "dev-000", "dev-001"
    release(setting, step, "4.0.0", "activity-large")
    faults = (
        {"kind": "cut", "ops": 30, "mode": 1},
        {"kind": "cut", "ops": 25, "mode": 2, "after_restart": True},
    )
    for fault in faults:
        ask(setting.device_dir, {"do": "fault", "device": victim, **fault})
    ask(setting.device_dir, {"do": "fault", "device": flipped, "kind": "flip", "chunk": 21})
    before = ask(setting.device_dir, {"do": "status"})["devices"][victim]["restarts"].get("power", 0)
    dropped_before = ask(setting.device_dir, {"do": "status"})["devices"][flipped].get("dropped_chunks", 0)
    rollout = roll_out(
        setting, f"{setting.model} 4.0.0 on two devices", "4.0.0", plans.everyone(), devices=[victim, flipped]
    )
    ended(setting, step, rollout, "completed", deadline_s=180)
    after = ask(setting.device_dir, {"do": "status"})["devices"]
    cuts = after[victim]["restarts"].get("power", 0) - before
    dropped = after[flipped].get("dropped_chunks", 0) - dropped_before
    step.facts["power cuts"] = cuts
    step.facts["damaged chunks dropped"] = dropped
    step.facts["running 4.0.0"] = running(setting).get(f"{setting.model} 4.0.0", 0)
    expect(cuts == 2, f"{cuts} power cuts happened")
    expect(dropped == 1, f"{dropped} damaged chunks were dropped")
    expect(running(setting).get(f"{setting.model} 4.0.0") == 2, f"running: {running(setting)}")
