"""`tinyfleet models`: look into a file, upload it, sign it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fleet.cli import output, verification
from fleet.cli.connection import connected
from fleet.cli.exits import EndedBadly, UsageError
from fleet.client import TinyFleet, wait_for

_LINES = (
    ("NAME", "name"),
    ("LAST SEQ", "last_seq"),
    ("CREATED", "created_at"),
    ("DESCRIPTION", "description"),
)
_VERSIONS = (("VERSION", "version"), ("STATE", "state"), ("BYTES", "size"), ("SEQ", "manifest.seq"),
             ("STAGED", "staging.state"), ("CREATED", "created_at"), ("TEXT", "text"))  # fmt: skip
_ONE = (
    ("model", "model"), ("version", "version"), ("state", "state"), ("code", "code"), ("text", "text"),
    ("fix", "fix"), ("bytes", "size"), ("sha-256", "sha256"), ("parent", "parent"),
    ("declared accuracy", "declared_accuracy"), ("manifest", "manifest.id"), ("seq", "manifest.seq"),
    ("staging", "staging.state"), ("by", "created_by"), ("created", "created_at"),
)  # fmt: skip
_CLASSES = (
    ("CLASS", "class"), ("VERDICT", "kind"), ("CODE", "code"), ("ARENA", "arena_bytes"), ("TEXT", "text"),
    ("FIX", "fix"),
)  # fmt: skip
_FILE = (
    ("sha-256", "sha256"), ("bytes", "size"), ("description", "description"), ("operators", "uses"),
    ("inputs", "inputs_text"), ("outputs", "outputs_text"), ("quantisation", "quantisation"),
    ("constant bytes", "constant_bytes"), ("multiply-accumulates", "macs"), ("stateful", "is_stateful"),
    ("notes", "notes"),
)  # fmt: skip
_BUSY = ("uploaded", "inspecting")


def add(areas: Any) -> None:
    """Add the area to the command line."""
    area = areas.add_parser("models", help="inspect, upload and sign models")
    verbs = area.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    one = verbs.add_parser("inspect", help="what a .tflite says about itself, on this machine")
    one.add_argument("file", type=Path)
    one.set_defaults(run=_inspect)
    one = verbs.add_parser("list", help="model lines, or the versions of one")
    one.add_argument("model", nargs="?", default="")
    output.sortable(one)
    one.set_defaults(run=_list)
    one = verbs.add_parser("create", help="a new model line")
    one.add_argument("model")
    one.add_argument("--description", default="")
    one.set_defaults(run=_create)
    one = verbs.add_parser("upload", help="upload a .tflite and wait for its verdict")
    one.add_argument("model")
    one.add_argument("version")
    one.add_argument("file", type=Path)
    one.add_argument("--evaluation", type=Path, help=".npz of inputs and labels")
    one.add_argument("--accuracy", type=float, help="share of the evaluation set, 0..1")
    one.add_argument("--parent", default="", help="version it was made from")
    one.add_argument("--notes", default="")
    one.add_argument("--hints", type=Path, help="JSON file: how the model wants to be fed and read")
    _patience(one)
    one.set_defaults(run=_upload)
    verification.add(verbs)
    for name, words, run in (
        ("show", "a version and its verdicts", _show),
        ("yank", "no new rollouts of it", _yank),
    ):
        one = verbs.add_parser(name, help=words)
        one.add_argument("model")
        one.add_argument("version")
        if name == "yank":
            one.add_argument("--reason", required=True)
        one.set_defaults(run=run)
    one = verbs.add_parser("acknowledge", help="accept for a class what preflight could not prove")
    one.add_argument("model")
    one.add_argument("version")
    one.add_argument("device_class", metavar="class")
    one.add_argument("--reason", required=True)
    one.set_defaults(run=_acknowledge)
    one = verbs.add_parser("release", help="sign a version and stage its chunks")
    one.add_argument("model")
    one.add_argument("version")
    one.add_argument("--slot", type=int, default=0)
    one.add_argument("--floor", type=int, default=0, help="least seq that devices accept from then on")
    _patience(one)
    one.set_defaults(run=_release)


def _patience(one: argparse.ArgumentParser) -> None:
    one.add_argument("--no-wait", action="store_true", help="do not wait for the end of it")
    one.add_argument("--timeout", type=float, default=300, metavar="S", help="seconds to wait, default 300")


def _inspect(args: argparse.Namespace) -> None:
    from ota import inspector

    try:
        found = inspector.inspect(_read(args.file)).to_json()
    except inspector.InspectionError as error:
        raise EndedBadly(f"{args.file}: {error.code}: {error.text}") from error
    found["uses"] = [f"{use['count']} {use['name']}" for use in found["operators"]]
    for side in ("inputs", "outputs"):
        found[f"{side}_text"] = [
            f"{one['dtype_name']} {list(one['shape'])} scale {one['scale']:g} zero {one['zero_point']}"
            for one in found[side]
        ]
    output.one(found, args.format, _FILE)
    if found["refusals"]:
        words = "; ".join(f"{one['code']}: {one['text']} {one['fix']}" for one in found["refusals"])
        raise EndedBadly(f"{args.file} would be refused: {words}")


def _list(args: argparse.Namespace) -> None:
    api = connected(args).models
    if args.model:
        empty = f"no version yet: `tinyfleet models upload {args.model} 1.0.0 FILE`"
        output.rows(api.versions(args.model, sort=args.sort), _VERSIONS, args.format, empty=empty)
    else:
        empty = "no model yet: `tinyfleet models create NAME`"
        output.rows(api.list(sort=args.sort), _LINES, args.format, empty=empty)


def _create(args: argparse.Namespace) -> None:
    output.one(connected(args).models.create(args.model, args.description), args.format, (("model", "name"),))


def _upload(args: argparse.Namespace) -> None:
    api = connected(args)
    if not args.file.is_file():
        raise UsageError(f"{args.file} is no file")
    try:
        hints = json.loads(args.hints.read_text()) if args.hints else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{args.hints}: {error}") from error
    made = api.models.upload(
        args.model, args.version, args.file, evaluation=args.evaluation, declared_accuracy=args.accuracy,
        parent=args.parent, notes=args.notes, hints=hints,
    )  # fmt: skip
    if not args.no_wait:
        made = _settled(api, args.model, args.version, args.timeout)
    _print(made, args.format)
    if made["state"] == "refused":
        raise EndedBadly(
            f"{args.model} {args.version} is refused: {made['code']}: {made['text']} {made['fix']}"
        )


def _settled(api: TinyFleet, model: str, version: str, timeout_s: float) -> dict[str, Any]:
    def look() -> tuple[dict[str, Any] | None, str]:
        found = api.models.get(model, version)
        return (None if found["state"] in _BUSY else found), found["state"]

    return wait_for(f"verdict on {model} {version}", look, deadline_s=timeout_s)


def _show(args: argparse.Namespace) -> None:
    _print(connected(args).models.get(args.model, args.version), args.format)


def _yank(args: argparse.Namespace) -> None:
    _print(connected(args).models.yank(args.model, args.version, args.reason), args.format)


def _acknowledge(args: argparse.Namespace) -> None:
    api = connected(args).models
    _print(api.acknowledge(args.model, args.version, args.device_class, args.reason), args.format)


def _release(args: argparse.Namespace) -> None:
    api = connected(args)
    api.models.release(args.model, args.version, slot=args.slot, floor=args.floor)

    def look() -> tuple[dict[str, Any] | None, str]:
        found = api.models.get(args.model, args.version)
        staging = found["staging"] or {}
        seen = f"{staging.get('published', 0)} of {staging.get('chunks', '?')} chunks, {staging.get('state')}"
        return (found if staging.get("state") == "staged" else None), seen

    found = (
        api.models.get(args.model, args.version)
        if args.no_wait
        else wait_for(f"staging of {args.model} {args.version}", look, deadline_s=args.timeout)
    )
    _print(found, args.format)


def _print(version: dict[str, Any], how: str) -> None:
    output.one(version, how, _ONE)
    if how == "table" and version.get("verdicts"):
        print()
        output.rows(version["verdicts"], _CLASSES, how, empty="")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
