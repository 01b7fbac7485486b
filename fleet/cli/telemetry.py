"""`tinyfleet telemetry`: questions, as a table, CSV or JSON."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.cli import output
from fleet.cli.connection import connected
from fleet.cli.exits import UsageError

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_METRICS = (("METRIC", "name"), ("UNIT", "unit"), ("KINDS", "kinds"), ("AGGREGATIONS", "aggs"))
_POINT = ("t", "value", "lower", "upper", "n_devices", "n")


def add(areas: Any) -> None:
    """Add the area to the command line."""
    area = areas.add_parser("telemetry", help="accuracy, latency, anomalies over versions and time")
    verbs = area.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    one = verbs.add_parser("metrics", help="what can be asked for")
    one.set_defaults(run=_metrics)
    one = verbs.add_parser("query", help="one metric over time, a line a series and time")
    one.add_argument("metric")
    one.add_argument("--kind", default="", help="of accuracy: golden, delayed, proxy or estimate")
    one.add_argument("--agg", default="", help="mean, p95, ...; the metric's own by default")
    one.add_argument("--by", action="append", default=[], help="group by this; may be repeated")
    one.add_argument("--from", dest="start", default="24h", help="a time, or how long ago; default 24h")
    one.add_argument("--to", dest="end", default="0s", help="a time, or how long ago; default now")
    one.add_argument("--step", default="1h", help="as 60s, 5m, 1h, 1d")
    one.add_argument("-q", "--query", default="", help="which devices and versions")
    one.set_defaults(run=_query)


def duration_s(text: str) -> int:
    """Seconds of `90s`, `5m`, `1h` or `7d`. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not found:
        raise UsageError(f"{text!r} is no duration: 60s, 5m, 1h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def moment(text: str, now: datetime) -> str:
    """RFC 3339 of a time with an offset, or of so long before now. Raises UsageError."""
    if re.fullmatch(r"\d+[smhd]", text):
        return (now - timedelta(seconds=duration_s(text))).isoformat()
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is neither a time nor a duration as 24h") from error
    if found.tzinfo is None:
        raise UsageError(f"{text!r} has no time zone: add Z or an offset")
    return found.isoformat()


def _metrics(args: argparse.Namespace) -> None:
    found = connected(args).telemetry.metrics()["items"]
    output.rows(found, _METRICS, args.format, empty="no metric")


def _query(args: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    found = connected(args).telemetry.query(
        args.metric, moment(args.start, now), moment(args.end, now), step_s=duration_s(args.step),
        kind=args.kind, agg=args.agg, group_by=args.by, q=args.query,
    )  # fmt: skip
    if args.format == "json":
        print(json.dumps(found, indent=1))
        return
    points = [
        {**one["labels"], **dict(zip(_POINT, point, strict=True)), "reason": one.get("reason")}
        for one in found["series"]
        for point in one["points"]
    ]
    names = (*args.by, *_POINT, *(["reason"] if args.kind == "estimate" else []))
    columns = [(name.upper().replace("_", " "), name) for name in names]
    output.rows(points, columns, args.format, empty="nothing was reported in this time")
