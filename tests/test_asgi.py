"""The web server's application as a process loads it."""

from __future__ import annotations

import os
import subprocess
import sys

from fleet.stack.paths import PROJECT_ROOT

_PROGRAM = """
import gc, sys
import fleet.asgi
print(gc.get_freeze_count(), len(gc.get_objects()), "fleet.console.views.live" in sys.modules)
"""


def test_what_a_server_loads_is_not_collected_again_and_again() -> None:
    env = {**os.environ, "FLEET_SECRET_KEY": "x", "FLEET_NO_DB_POOL": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM], env=env, cwd=PROJECT_ROOT, check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    kept, others, has_views = done.stdout.split()
    assert has_views == "True", "pages are loaded before they are frozen"
    assert int(others) < int(kept) / 10
