"""The SQL of a telemetry query over one source. Only constants and the SQL of query sets reach the text."""

# ruff: noqa: S608 - see above

from collections.abc import Mapping
from typing import Any

from fleet.telemetry.catalogue import TelemetryQuery
from fleet.telemetry.selection import Condition
from fleet.telemetry.sources import Source


def statement(
    question: TelemetryQuery, source: Source, selected: Condition | None
) -> tuple[str, dict[str, Any]]:
    """Rows of (bucket, label..., value, spread, n_devices, n), and the parameters."""
    agg = question.aggregation
    keys, chosen, where, parameters = frame(question, source, selected)
    numerator, denominator = terms(question, source)
    if agg == "device_mean":
        inner = (
            f"SELECT {chosen}, w.device_id,"
            f" sum({numerator})::float8 AS num, sum({denominator})::bigint AS den"
            f" FROM {source.table} WHERE {where} GROUP BY {keys}, w.device_id"
        )
        return (
            f"SELECT {keys}, avg(num / den), stddev_samp(num / den), count(*), sum(den)::bigint"
            f" FROM ({inner}) per_device WHERE den > 0 GROUP BY {keys} ORDER BY {keys}"
        ), parameters
    devices = (
        f"count(DISTINCT w.device_id) FILTER (WHERE {denominator} > 0)" if source.has_devices else "NULL"
    )
    values = {
        "mean": f"sum({numerator})::float8 / nullif(sum({denominator}), 0)",
        "max": f"max({numerator})::float8",
        "min": f"min({numerator}) FILTER (WHERE {denominator} > 0)::float8",
        "sum": f"sum({numerator})::float8",
        "count": f"sum({denominator})::float8",
    }
    return (
        f"SELECT {chosen}, {values[agg]}, NULL, {devices}, coalesce(sum({denominator}), 0)::bigint"
        f" FROM {source.table} WHERE {where} GROUP BY {keys} ORDER BY {keys}"
    ), parameters


def frame(
    question: TelemetryQuery, source: Source, selected: Condition | None
) -> tuple[str, str, str, dict[str, Any]]:
    """What every statement has: the names that group, their SQL, the conditions and the parameters."""
    labels = [f"{source.labels[name]} AS g{i}" for i, name in enumerate(question.group_by)]
    names = [f"g{i}" for i in range(len(labels))]
    bucket = f"date_bin(%(step)s * interval '1 s', {source.time}, 'epoch'::timestamptz) AS bucket"
    scope, bound = scope_of(question, source.labels, selected)
    where = [f"{source.time} >= %(start)s", f"{source.time} < %(end)s", *source.where, *scope]
    parameters: dict[str, Any] = {
        "start": question.start, "end": question.end, "step": question.step_s, **source.parameters, **bound,
    }  # fmt: skip
    return ", ".join(["bucket", *names]), ", ".join([bucket, *labels]), " AND ".join(where), parameters


def scope_of(
    question: TelemetryQuery, labels: Mapping[str, str], selected: Condition | None
) -> tuple[list[str], dict[str, Any]]:
    """Conditions on whose rows count, whatever their time, and the parameters. labels: SQL of each field."""
    where: list[str] = []
    parameters: dict[str, Any] = {}
    for name, values in (
        ("model", question.models),
        ("version", question.versions),
        ("digest", question.digests),
        ("device_class", question.device_classes),
        ("device", question.devices),
    ):
        if values:
            where.append(f"{labels[name]} = ANY(%({name})s)")
            parameters[name] = list(values)
    if selected is not None:
        where.append(selected.sql)
        parameters |= selected.parameters
    return where, parameters


def terms(question: TelemetryQuery, source: Source) -> tuple[str, str]:
    """SQL of what is summed above and below the line."""
    name = f"accuracy {question.kind}" if question.metric == "accuracy" else question.metric
    numerator, denominator = source.terms[name]
    is_slowest = question.metric == "latency_us" and question.aggregation == "max"
    return ("w.us_max" if is_slowest else numerator), denominator
