"""`tinyfleet rollouts`: plan one, start it, watch it, stop it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fleet.cli import output
from fleet.cli.connection import connected
from fleet.cli.exits import EndedBadly, UsageError
from fleet.client import NotReached

_LIST = (("ID", "id"), ("NAME", "name"), ("STATE", "state"), ("MODEL", "model"), ("VERSION", "version"),
         ("CREATED", "created_at"), ("BY", "created_by"))  # fmt: skip
_ONE = (
    ("rollout", "id"), ("name", "name"), ("state", "state"), ("", "sentence"), ("model", "manifest.model"),
    ("version", "manifest.version"), ("devices", "size"), ("possible", "allowed"), ("reason", "reason"),
)  # fmt: skip
_JOBS = (("DEVICE", "device"), ("WAVE", "wave"), ("ATTEMPT", "attempt"), ("STATE", "state"), ("CODE", "code"),
         ("HAVE", "have"), ("TOTAL", "total"))  # fmt: skip
GOOD: Final = frozenset({"completed"})
BAD: Final = frozenset(
    {"halted", "rolled_back", "rollback_incomplete", "aborted", "cancelled", "rejected", "preflight_failed",
     "superseded"}
)  # fmt: skip
_VERBS = {
    "submit": "check it against the fleet, and ask for approval where that is needed",
    "start": "start it",
    "pause": "make no more offers",
    "resume": "go on; after a halt with --evidence",
    "abort": "stop it and keep what runs",
    "rollback": "take the model back from everybody who runs it",
    "retry-failed": "try the devices again whose failure can heal",
    "cancel": "end it before it starts",
    "reject": "refuse an approval",
    "create-revert": "draft a rollout that takes a completed one back",
}
_DRY = ("start", "abort", "rollback", "retry-failed")
_PLAIN = ("submit", "cancel")


def add(areas: Any) -> None:
    """Add the area to the command line."""
    area = areas.add_parser("rollouts", help="create, watch and stop rollouts")
    verbs = area.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    one = verbs.add_parser("list", help="newest first")
    one.add_argument("--state", default="")
    one.add_argument("--limit", type=int, default=20)
    output.sortable(one)
    one.set_defaults(run=_list)
    for name, words, run in (
        ("create", "a draft", _create),
        ("preview", "what a plan would mean, without storing anything", _preview),
    ):
        one = verbs.add_parser(name, help=words)
        _draft(one)
        one.set_defaults(run=run)
    one = verbs.add_parser("show", help="its state in words and numbers")
    one.add_argument("rollout")
    one.set_defaults(run=_show)
    one = verbs.add_parser("watch", help="follow it to its end; exit status 0 only when it completed")
    one.add_argument("rollout")
    one.add_argument("--every", type=float, default=2, metavar="S", help="seconds between two looks")
    one.add_argument("--timeout", type=float, default=0, metavar="S", help="give up after this; 0: never")
    one.set_defaults(run=_watch)
    one = verbs.add_parser("approve", help="approve what `show` showed; never one's own")
    one.add_argument("rollout")
    one.add_argument("--plan-digest", required=True, help="of the plan that was read, from `show`")
    one.add_argument("--reason", default="")
    one.set_defaults(run=_approve)
    for name, words in _VERBS.items():
        one = verbs.add_parser(name, help=words)
        one.add_argument("rollout")
        if name not in _PLAIN:
            one.add_argument("--reason", default="", help="for the audit trail")
        if name in _DRY:
            one.add_argument("--dry-run", action="store_true", help="say what would happen, change nothing")
        if name == "resume":
            one.add_argument("--evidence", default="", help="id of the evidence that halted it")
        one.set_defaults(run=_act, act=name)
    one = verbs.add_parser("explain", help="why a device is where it is")
    one.add_argument("rollout")
    one.add_argument("device")
    one.set_defaults(run=_explain)
    one = verbs.add_parser("jobs", help="its devices, one by one")
    one.add_argument("rollout")
    one.add_argument("--state", default="")
    one.add_argument("--code", default="")
    output.sortable(one)
    one.set_defaults(run=_jobs)


def _draft(one: argparse.ArgumentParser) -> None:
    one.add_argument("name")
    one.add_argument("model")
    one.add_argument("version", help="a version, or an alias of the model as stable")
    one.add_argument("--slot", type=int, default=0)
    one.add_argument("--plan", type=Path, metavar="FILE", help="JSON; else --waves and --control")
    one.add_argument(
        "--waves", default="", metavar="LIST", help="as 20,10%%,100%%: counts or shares of the target"
    )
    one.add_argument("--control", default="", metavar="SIZE", help="devices that keep the old model, as 5%%")
    one.add_argument("--group", action="append", default=[], help="of these groups; may be repeated")
    one.add_argument("--class", dest="classes", action="append", default=[], help="of these classes")
    one.add_argument("--device", dest="devices", action="append", default=[], help="these devices")
    one.add_argument("-q", "--query", default="", help="and that this query selects")


def plan_of(args: argparse.Namespace) -> dict[str, Any]:
    """The plan that the options name. Raises UsageError."""
    if args.plan:
        if args.waves or args.control:
            raise UsageError("a plan is --plan, or --waves and --control")
        try:
            plan = json.loads(args.plan.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{args.plan}: {error}") from error
        if not isinstance(plan, dict):
            raise UsageError(f"{args.plan} is no JSON object")
        return plan
    if not args.waves:
        raise UsageError("name the waves, as --waves 20,10%,100%, or a file with --plan")
    plan = {"waves": [_size(part) for part in args.waves.split(",")]}
    if args.control:
        plan["control"] = _size(args.control)
    return plan


def _size(text: str) -> dict[str, float]:
    number = text.strip()
    try:
        return {"percent": float(number[:-1])} if number.endswith("%") else {"count": int(number)}
    except ValueError as error:
        raise UsageError(f"{text!r} is neither a count nor a share as 10%") from error


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    parts = {"groups": args.group, "classes": args.classes, "devices": args.devices, "q": args.query}
    target = {name: value for name, value in parts.items() if value}
    return {"name": args.name, "model": args.model, "version": args.version, "plan": plan_of(args),
            "slot": args.slot, "target": target}  # fmt: skip


def _list(args: argparse.Namespace) -> None:
    found = islice(connected(args).rollouts.list(args.state, sort=args.sort), args.limit)
    empty = "no rollout yet: `tinyfleet rollouts create NAME MODEL VERSION --waves 20,100%`"
    output.rows(found, _LIST, args.format, empty=empty)


def _create(args: argparse.Namespace) -> None:
    given = _arguments(args)
    _print(connected(args).rollouts.create(**given), args.format)


def _preview(args: argparse.Namespace) -> None:
    given = _arguments(args)
    found = connected(args).rollouts.preview(**given)
    output.one(found, args.format, [(name.replace("_", " "), name) for name in found])


def _show(args: argparse.Namespace) -> None:
    found = connected(args).rollouts.get(args.rollout)
    _print(found, args.format)
    if args.format == "table" and found["waves"]:
        print()
        print(waves(found))


def waves(found: dict[str, Any]) -> str:
    """A line a wave."""
    cells = [
        [str(wave["n"]), wave["label"], str(wave["size"]), str(wave["confirmed"]), str(wave["in_flight"]),
         str(wave["failed"]), str(wave["waiting"]), wave["verdict"] or ""]
        for wave in found["waves"]
    ]  # fmt: skip
    return output.table(
        ["WAVE", "STATE", "DEVICES", "CONFIRMED", "IN FLIGHT", "FAILED", "WAITING", "VERDICT"], cells
    )


def _watch(args: argparse.Namespace) -> None:
    api, end = connected(args).rollouts, time.monotonic() + args.timeout
    shown = ""
    while True:
        found = api.get(args.rollout)
        sentence = output.harmless(f"{found['label']}: {found['sentence']}")
        told = output.fitted(sentence) + (f"\n{waves(found)}" if found["waves"] else "")
        if args.format == "json":
            if told != shown:
                print(json.dumps({name: found[name] for name in ("state", "sentence", "counts")}), flush=True)
        elif told != shown:
            if shown and sys.stdout.isatty():
                print(f"\033[{shown.count(chr(10)) + 1}A\033[J", end="")
            print(told, flush=True)
        shown = told
        if found["state"] in GOOD:
            return
        if found["state"] in BAD:
            raise EndedBadly(f"{found['name']} is {found['label'].lower()}. {found['reason']}".strip())
        if args.timeout and time.monotonic() > end:
            raise NotReached(f"{found['name']} is still {found['label'].lower()}; it goes on by itself")
        time.sleep(args.every)


def _approve(args: argparse.Namespace) -> None:
    api = connected(args).rollouts
    submission = api.get(args.rollout)["approval"]["submission"]
    if not submission:
        raise UsageError(
            f"nothing of {args.rollout} was submitted: `tinyfleet rollouts submit {args.rollout}`"
        )
    _print(
        api.approve(args.rollout, submission | {"plan_digest": args.plan_digest}, args.reason), args.format
    )


def _act(args: argparse.Namespace) -> None:
    found = connected(args).rollouts.act(
        args.rollout,
        args.act,
        reason=getattr(args, "reason", ""),
        dry_run=getattr(args, "dry_run", False),
        ack_evidence=getattr(args, "evidence", ""),
    )
    if "state" in found:
        _print(found, args.format)
    else:
        output.one(found, args.format, [(name.replace("_", " "), name) for name in found])


def _explain(args: argparse.Namespace) -> None:
    found = connected(args).rollouts.explain(args.rollout, args.device)
    output.one(found, args.format, [(name.replace("_", " "), name) for name in found])


def _jobs(args: argparse.Namespace) -> None:
    found = connected(args).rollouts.jobs(args.rollout, state=args.state, code=args.code, sort=args.sort)
    output.rows(found, _JOBS, args.format, empty="no device of it has a job yet")


def _print(rollout: dict[str, Any], how: str) -> None:
    submission = (rollout.get("approval") or {}).get("submission")
    more = (("plan digest", "approval.submission.plan_digest"),) if submission else ()
    output.one(rollout, how, (*_ONE, *more))
