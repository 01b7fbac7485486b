"""`tinyfleet devices`: what is out there, and taking one aside."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any

from fleet.cli import output
from fleet.cli.connection import connected

_COLUMNS = (
    ("ID", "id"), ("CLASS", "class"), ("PRESENCE", "presence"), ("FIRMWARE", "firmware"),
    ("RUNS", "runs"), ("STATE", "state"), ("LAST SEEN", "last_seen_at"),
)  # fmt: skip
_ONE = (
    ("device", "id"), ("class", "class"), ("chip", "chip"), ("presence", "presence"),
    ("last seen", "last_seen_at"), ("firmware", "firmware"), ("runs", "runs"), ("state", "state"),
    ("refusal", "refusal"), ("last reset", "reset_reason"), ("tags", "tags"), ("attributes", "attributes"),
    ("quarantined", "quarantined_at"), ("because", "quarantine_reason"), ("retired", "retired_at"),
    ("enrolled", "enrolled_at"),
)  # fmt: skip
_VERBS = {
    "quarantine": "leave it out of rollouts until it is released",
    "release": "let it take part in rollouts again",
    "retire": "end its access to the broker for good",
}


def add(areas: Any) -> None:
    """Add the area to the command line."""
    area = areas.add_parser("devices", help="list devices, look at one, quarantine it")
    verbs = area.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    one = verbs.add_parser("list", help="devices that a query selects")
    one.add_argument("-q", "--query", default="", help="as in the console: class==s3-8m;tag==line-2")
    one.add_argument("--class", dest="device_class", default="")
    one.add_argument("--presence", default="", choices=("online", "offline", "never_seen"))
    one.add_argument("--limit", type=int, default=None, help="at most so many; default: all")
    output.sortable(one)
    one.set_defaults(run=_list)
    one = verbs.add_parser("show", help="one device")
    one.add_argument("device")
    one.set_defaults(run=_show)
    one = verbs.add_parser("events", help="its timeline, newest first")
    one.add_argument("device")
    one.add_argument("--limit", type=int, default=50)
    output.sortable(one)
    one.set_defaults(run=_events)
    for verb, words in _VERBS.items():
        one = verbs.add_parser(verb, help=words)
        one.add_argument("device")
        one.add_argument("--reason", required=True)
        one.set_defaults(run=_act, act=verb)


def _list(args: argparse.Namespace) -> None:
    found = connected(args).devices.list(
        q=args.query, device_class=args.device_class, presence=args.presence, sort=args.sort
    )
    output.rows(
        map(_flat, islice(found, args.limit)), _COLUMNS, args.format,
        empty="no device: enrol one with `manage.py devices`, or `manage.py simulate` some",
    )  # fmt: skip


def _show(args: argparse.Namespace) -> None:
    output.one(_flat(connected(args).devices.get(args.device)), args.format, _ONE)


def _events(args: argparse.Namespace) -> None:
    columns = (("AT", "at"), ("KIND", "kind"), ("CODE", "code"), ("WHAT", "text"))
    found = islice(connected(args).devices.events(args.device, sort=args.sort), args.limit)
    output.rows(found, columns, args.format, empty="nothing has happened to this device yet")


def _act(args: argparse.Namespace) -> None:
    output.one(_flat(connected(args).devices.act(args.device, args.act, args.reason)), args.format, _ONE)


def _flat(device: dict[str, Any]) -> dict[str, Any]:
    """With what its slots run and do as one text each."""
    slots = device.get("slots") or []
    runs = [f"{run.get('model') or run['mid']} {run.get('version') or ''}".strip()
            for slot in slots if (run := slot.get("run"))]  # fmt: skip
    states = [f"{slot['state']}{' ' + slot['code'] if slot.get('code') else ''}" for slot in slots]
    return device | {"runs": ", ".join(runs), "state": ", ".join(states)}
