"""manage.py rollouts: plan-size.

Says how many devices and hours a rollout needs to see a drop, before anything is planned.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ota import planning


class Command(BaseCommand):
    help = "Planning of rollouts: devices and hours that a wanted margin needs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        size = verbs.add_parser("plan-size", help="devices per arm and hours, by length of the comparison")
        size.add_argument(
            "--drop", type=float, default=0.05, help="true drop to catch, a share (default 0.05)"
        )
        size.add_argument(
            "--margin", type=float, default=0.03, help="promote margin of the plan, a share (default 0.03)"
        )
        size.add_argument(
            "--per-hour", type=float, default=20, help="labels a device gives in an hour (default 20)"
        )
        size.add_argument(
            "--accuracy", type=float, default=0.9, help="accuracy of a typical device (default 0.9)"
        )
        size.add_argument(
            "--history-h", type=float, default=168, help="hours of history before the start (default 168)"
        )
        size.add_argument(
            "--effect-sd",
            type=float,
            default=0.01,
            help="spread of the change between devices, a share (default 0.01)",
        )
        size.add_argument(
            "--power", type=float, default=planning.SURE, help="wanted probability (default 0.95)"
        )
        size.add_argument("--in-flight", type=int, default=20, help="devices under way at once (default 20)")
        size.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        for name, least, most in _RANGES:
            if not least <= options[name] <= most:
                flag = name.replace("_", "-")
                raise CommandError(f"--{flag} is {options[name]:g}, it must be {least:g} to {most:g}")
        found = planning.sizes_for(
            options["drop"],
            promote_margin=options["margin"],
            per_hour=options["per_hour"],
            accuracy=options["accuracy"],
            effect_sd=options["effect_sd"],
            history_h=options["history_h"],
            power=options["power"],
            max_in_flight=options["in_flight"],
        )
        if options["json"]:
            self.stdout.write(json.dumps([size.to_json() for size in found]))
            return
        self.stdout.write(
            f"a drop of {options['drop'] * 100:g} points halts, and an equal candidate passes a margin of "
            f"{options['margin'] * 100:g} points, each in {options['power']:.0%} of rollouts:"
        )
        self.stdout.write("window   labels  pair spread  to halt  to pass  devices per arm   hours")
        for size in found:
            self.stdout.write(
                f"{size.window_h:>4g} h  {size.outcomes:>7}  {size.pair_sd * 100:>8.1f} pt"
                f"  {_n(size.halt_pairs)}  {_n(size.pass_pairs)}  {_n(size.pairs):>15}  {size.hours:>6g}"
            )
        self.stdout.write(
            "simulated with the gate's own processes and normal differences: an expectation, no promise"
        )


_RANGES = (
    ("drop", 0.001, 1.0),
    ("margin", 0.001, 1.0),
    ("per_hour", 0.01, 1e6),
    ("accuracy", 0.01, 0.99),
    ("history_h", 0.1, 2_160),
    ("effect_sd", 0.0, 0.5),
    ("power", 0.5, 0.99),
    ("in_flight", 1, 5_000),
)


def _n(pairs: int | None) -> str:
    return f"{pairs:>7}" if pairs is not None else f">{planning.MOST_PAIRS:>6}"
