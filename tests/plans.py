"""How the database goes about a query set: the plan as text, and how many rows it looked at."""

from __future__ import annotations

import json
from typing import Any

from django.db import connection
from django.db.models import QuerySet


def plan_of(rows: QuerySet[Any]) -> str:
    """The plan, a node a line."""
    query, parameters = rows.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}", parameters)
        return "\n".join(line for (line,) in cursor.fetchall())


def rows_read(rows: QuerySet[Any]) -> int:
    """Rows that the statement took from tables, those that a filter then threw away included."""
    query, parameters = rows.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", parameters)
        return read_by(cursor.fetchone()[0])


def read_by(told: Any) -> int:
    """`rows_read` of what EXPLAIN (ANALYZE, FORMAT JSON) answered."""
    return _read((told if isinstance(told, list) else json.loads(told))[0]["Plan"])


def _read(node: dict[str, Any]) -> int:
    children = node.get("Plans", [])
    if "Relation Name" not in node or node["Node Type"] == "Bitmap Heap Scan":
        return sum(_read(child) for child in children) + int(node.get("Rows Removed by Filter", 0))
    seen = float(node["Actual Rows"]) + float(node.get("Rows Removed by Filter", 0))
    return round(seen * int(node["Actual Loops"])) + sum(_read(child) for child in children)


def analyze(*tables: str) -> None:
    """Have the planner look at tables: one that was empty a moment ago lets any plan do."""
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f'ANALYZE "{table}"')
