"""`tinyfleet users`: who may sign in, as what, and to which devices."""

from __future__ import annotations

import argparse
from typing import Any, Final

from fleet.cli import output
from fleet.cli.connection import connected, login_of
from fleet.cli.exits import UsageError

ROLES: Final = ("viewer", "operator", "approver", "admin")
_LIST = (
    ("NAME", "name"), ("ROLE", "role"), ("ACTIVE", "is_active"), ("SECOND FACTOR", "has_second_factor"),
    ("GROUPS", "groups"), ("LAST SIGN-IN", "last_sign_in_at"), ("EMAIL", "email"),
)  # fmt: skip
_ONE = (
    ("name", "name"), ("role", "role"), ("active", "is_active"), ("second factor", "has_second_factor"),
    ("groups", "groups"), ("email", "email"), ("last sign-in", "last_sign_in_at"), ("since", "created_at"),
)  # fmt: skip
_INVITATIONS = (
    ("ID", "id"), ("ROLE", "role"), ("EMAIL", "email"), ("GROUPS", "groups"), ("BY", "made_by"),
    ("EXPIRES", "expires_at"), ("USED", "used_at"), ("REVOKED", "revoked_at"),
)  # fmt: skip
_MADE = (("link", "link"), ("mailed", "is_mailed"), ("id", "id"), ("role", "role"), ("groups", "groups"),
         ("expires", "expires_at"))  # fmt: skip


def add(areas: Any) -> None:
    """Add the area to the command line."""
    area = areas.add_parser("users", help="invite people, change what they may do")
    verbs = area.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    one = verbs.add_parser("list", help="people, by name of sign-in")
    output.sortable(one)
    one.set_defaults(run=_list)
    one = verbs.add_parser("show", help="one person")
    one.add_argument("name")
    one.set_defaults(run=_show)
    one = verbs.add_parser("invite", help="a link that makes one account; it is printed once")
    one.add_argument("role", choices=ROLES)
    one.add_argument("--email", default="", help="where the link is sent too, if there is a mail server")
    _grouped(one)
    one.set_defaults(run=_invite)
    one = verbs.add_parser("change", help="another role, or other devices")
    one.add_argument("name")
    one.add_argument("--role", choices=ROLES)
    _grouped(one).add_argument("--all-devices", action="store_true", help="no limit to groups any more")
    one.set_defaults(run=_change)
    for verb, is_active, words in (
        ("disable", False, "end their sessions and tokens; they may not sign in"),
        ("enable", True, "let them sign in again"),
    ):
        one = verbs.add_parser(verb, help=words)
        one.add_argument("name")
        one.set_defaults(run=_set_active, is_active=is_active)
    one = verbs.add_parser("invitations", help="newest first, without their links")
    output.sortable(one)
    one.set_defaults(run=_invitations)
    one = verbs.add_parser("uninvite", help="end an invitation; its link opens nothing any more")
    one.add_argument("id")
    one.set_defaults(run=_uninvite)


def _grouped(one: argparse.ArgumentParser) -> Any:
    """Options that say which devices; returns the group in which one excludes the other."""
    which = one.add_mutually_exclusive_group()
    which.add_argument(
        "--group", action="append", metavar="NAME", help="limited to this group of devices; may be repeated"
    )
    return which


def _list(args: argparse.Namespace) -> None:
    output.rows(connected(args).users.list(sort=args.sort), _LIST, args.format, empty="nobody")


def _show(args: argparse.Namespace) -> None:
    output.one(connected(args).users.get(args.name), args.format, _ONE)


def _invite(args: argparse.Namespace) -> None:
    made = connected(args).users.invite(args.role, email=args.email, groups=args.group)
    output.one(made | {"link": login_of(args).url.rstrip("/") + made["link"]}, args.format, _MADE)


def _change(args: argparse.Namespace) -> None:
    changes: dict[str, Any] = {"role": args.role} if args.role else {}
    if args.group or args.all_devices:
        changes["groups"] = args.group  # null: all devices
    if not changes:
        raise UsageError("say what changes: --role, --group or --all-devices")
    _changed(args, changes)


def _set_active(args: argparse.Namespace) -> None:
    _changed(args, {"is_active": args.is_active})


def _changed(args: argparse.Namespace, changes: dict[str, Any]) -> None:
    api = connected(args).users
    output.one(api.change(args.name, api.get(args.name)["rev"], changes), args.format, _ONE)


def _invitations(args: argparse.Namespace) -> None:
    found = connected(args).users.invitations(sort=args.sort)
    output.rows(found, _INVITATIONS, args.format, empty="no invitation")


def _uninvite(args: argparse.Namespace) -> None:
    connected(args).users.revoke_invitation(args.id)
    print(f"{args.id} opens nothing any more")
