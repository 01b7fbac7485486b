"""`tinyfleet`: parse the command line, call the API, end with a number that scripts understand."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence

from fleet.cli import completion, devices, exits, models, rollouts, telemetry, tokens, users
from fleet.cli.connection import Login, connected, keep
from fleet.cli.exits import EndedBadly, UsageError
from fleet.cli.output import FORMATS, harmless
from fleet.client import ApiError, NotReached, TinyFleet, Unreachable

_EPILOG = """Who and where: `tinyfleet login URL` once, or TINYFLEET_URL, TINYFLEET_TOKEN and TINYFLEET_CA.
Exit status: 0 done, 1 refused by the installation, 2 wrong usage, 3 not reachable, 4 what was waited for
ended badly, 5 it took too long, 130 interrupted."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="tinyfleet", description="Models on fleets, from a shell.", epilog=_EPILOG
    )
    top.add_argument("--url", default="", help="address of the installation, as https://fleet.example")
    top.add_argument("--ca", default="", metavar="FILE", help="certificate authorities to trust")
    top.add_argument("--format", choices=FORMATS, default="table", help="how answers are printed")
    areas = top.add_subparsers(dest="area", metavar="AREA", required=True)
    login = areas.add_parser("login", help="keep address and token for later calls")
    login.add_argument("address", metavar="URL")
    login.set_defaults(run=_login)
    for part in (devices, models, rollouts, telemetry, tokens, users):
        part.add(areas)
    shell = areas.add_parser("completion", help="print a completion script")
    shell.add_argument("shell", choices=completion.SHELLS)
    shell.set_defaults(run=lambda args: print(completion.script(parser(), args.shell)))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the `tinyfleet` command; the exit status."""
    try:
        args = parser().parse_args(argv)
        args.run(args)
    except UsageError as error:
        return _end(exits.USAGE, str(error))
    except ApiError as error:
        return _end(exits.REFUSED, told(error))
    except Unreachable as error:
        return _end(exits.UNREACHABLE, f"not reachable: {error}")
    except EndedBadly as error:
        return _end(exits.ENDED_BADLY, str(error))
    except NotReached as error:
        return _end(exits.TIMED_OUT, str(error))
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return exits.OK
    except KeyboardInterrupt:
        return _end(exits.INTERRUPTED, "interrupted; what was started goes on at the installation")
    return exits.OK


def told(error: ApiError) -> str:
    """A refusal in words: code, detail, each field, and what is possible instead."""
    lines = [f"{error.code or 'refused'} (HTTP {error.status}): {error.detail}"]
    for one in error.errors:
        if isinstance(one, dict):
            lines.append(f"  {one.get('pointer', '')}: {one.get('message', '')}")
    if allowed := error.problem.get("allowed"):
        lines.append(f"  possible now: {', '.join(map(str, allowed))}")
    if error.code == "token_invalid":
        lines.append("  run `tinyfleet login URL` with a token of this installation")
    return "\n".join(lines)


def _login(args: argparse.Namespace) -> None:
    token = getpass.getpass("API token: ") if sys.stdin.isatty() else sys.stdin.readline()
    login = Login(args.address.rstrip("/"), token.strip(), args.ca)
    if not login.token:
        raise UsageError(
            "no token was given: the console makes one under Settings, or `manage.py tokens issue`"
        )
    try:
        TinyFleet(login.url, login.token, verify=login.ca or True).http.get("/models", limit=1)
    except ApiError as error:
        if error.code != "scope_missing":  # it is a token of this installation all the same
            raise
    print(f"kept in {keep(login)}")


def _end(status: int, words: str) -> int:
    print(f"tinyfleet: {harmless(words)}", file=sys.stderr)
    return status


__all__ = ["connected", "main", "parser"]


if __name__ == "__main__":
    raise SystemExit(main())
