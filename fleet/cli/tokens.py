"""`tinyfleet tokens`: API tokens of one's own account."""

from __future__ import annotations

import argparse
from typing import Any

from fleet.cli import output
from fleet.cli.connection import connected

_COLUMNS = (
    ("ID", "id"), ("NAME", "name"), ("OWNER", "owner"), ("SCOPES", "scopes"), ("EXPIRES", "expires_at"),
    ("LAST USED", "last_used_at"), ("REVOKED", "revoked_at"),
)  # fmt: skip


def add(areas: Any) -> None:
    """Add the area to the command line."""
    area = areas.add_parser("tokens", help="make, list and end API tokens")
    verbs = area.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    one = verbs.add_parser("list", help="all tokens, without their secrets")
    output.sortable(one)
    one.set_defaults(run=_list)
    one = verbs.add_parser("create", help="a token; its text is printed once and never shown again")
    one.add_argument("name")
    one.add_argument("--scope", action="append", required=True, help="as devices:read; may be repeated")
    one.add_argument("--days", type=int, default=90, help="until it expires, default 90")
    one.add_argument(
        "--network", action="append", help="it may be used from, as 10.1.0.0/16; may be repeated; default any"
    )
    one.set_defaults(run=_create)
    one = verbs.add_parser("rotate", help="another secret for a token of yours; it is printed once")
    one.add_argument("id")
    one.add_argument(
        "--grace-hours", type=int, default=0, help="the former secret works for so long, default 0, most 168"
    )
    one.set_defaults(run=_rotate)
    one = verbs.add_parser("revoke", help="end a token")
    one.add_argument("id")
    one.set_defaults(run=_revoke)


def _list(args: argparse.Namespace) -> None:
    output.rows(connected(args).tokens.list(sort=args.sort), _COLUMNS, args.format, empty="no token")


def _create(args: argparse.Namespace) -> None:
    made = connected(args).tokens.create(args.name, args.scope, args.days, args.network)
    output.one(made, args.format, (("token", "token"), ("id", "id"), ("expires", "expires_at")))


def _rotate(args: argparse.Namespace) -> None:
    made = connected(args).tokens.rotate(args.id, args.grace_hours)
    shown = (("token", "token"), ("id", "id"), ("former works until", "former_secret_until"))
    output.one(made, args.format, shown)


def _revoke(args: argparse.Namespace) -> None:
    connected(args).tokens.revoke(args.id)
    print(f"{args.id} is revoked")
