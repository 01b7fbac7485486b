"""Which installation a command talks to, and as whom: options, then environment, then the login file."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fleet.cli.exits import UsageError
from fleet.client import TinyFleet

URL, TOKEN, CA = "TINYFLEET_URL", "TINYFLEET_TOKEN", "TINYFLEET_CA"


@dataclass(frozen=True)
class Login:
    """Where and who. ca: a file of certificate authorities, "" = those of the system."""

    url: str
    token: str
    ca: str = ""


def login_file() -> Path:
    """`tinyfleet/login.json` in the person's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "tinyfleet" / "login.json"


def keep(login: Login) -> Path:
    """Write the login file so that only its owner reads it; returns where it is."""
    path = login_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"url": login.url, "token": login.token, "ca": login.ca}, file)
    fresh.replace(path)
    return path


def login_of(args: argparse.Namespace) -> Login:
    """What holds for this call. Raises UsageError when nothing says where or who."""
    kept = _kept()
    url = args.url or os.environ.get(URL) or kept.get("url", "")
    token = os.environ.get(TOKEN) or kept.get("token", "")
    ca = args.ca or os.environ.get(CA) or kept.get("ca", "")
    if not url or not token:
        missing = "no address" if not url else "no token"
        raise UsageError(f"{missing}: run `tinyfleet login URL`, or set {URL} and {TOKEN}")
    return Login(url, token, ca)


def connected(args: argparse.Namespace) -> TinyFleet:
    """The API for this call."""
    login = login_of(args)
    if not login.url.startswith(("http://", "https://")):
        raise UsageError(f"{login.url} is no address: it begins with http:// or https://")
    return TinyFleet(login.url, login.token, verify=login.ca or True)


def _kept() -> dict[str, str]:
    try:
        found = json.loads(login_file().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{login_file()} cannot be read ({error}): run `tinyfleet login` again") from error
    return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}
