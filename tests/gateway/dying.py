"""`manage.py gateway` that kills itself after a COMMIT and before its acknowledgement.

    python -m tests.gateway.dying ACKS [options of the gateway]

ACKS: it dies instead of acknowledging that batch of telemetry, counted from 1. kill -9 from outside meets
this moment by luck alone, and it is the one that redelivers what is stored.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import django
from django.core.management import execute_from_command_line


def main() -> None:
    """Command line entry."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
    django.setup()
    from fleet.gateway.lean_source import LeanSource
    from fleet.gateway.paho_source import PahoSource

    left = int(sys.argv[1])
    for source in (LeanSource, PahoSource):
        acknowledge = source.ack

        def ack(self: Any, done: Sequence[Any], acknowledge: Any = acknowledge) -> None:
            nonlocal left
            left -= self.name == "telemetry"
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            acknowledge(self, done)

        source.ack = ack  # type: ignore[method-assign]
    execute_from_command_line(["manage.py", "gateway", *sys.argv[2:]])


if __name__ == "__main__":
    main()
