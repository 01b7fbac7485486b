"""Many rows of a table get new values of their own in one statement.

Django's `bulk_update` builds an expression a value: with 200 rows of 20 columns that costs more than the
200 statements it saves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection, models


def update_rows(rows: Sequence[models.Model], names: Iterable[str]) -> int:
    """Write these fields of rows of one model as the objects show them; returns how many rows there were.

    Without a condition: hold the rows, or own them. One UPDATE in the caller's transaction. Raises
    django.db.Error for a value that a column does not take; nothing is written then.
    """
    if not rows:
        return 0
    options = type(rows[0])._meta
    by_name = {field.name: field for field in options.concrete_fields}
    key = options.pk
    fields = [by_name[name] for name in names]
    columns = [str(field.column) for field in fields]
    sets = ", ".join(
        f'"{column}" = d."{column}"{_back(field)}' for column, field in zip(columns, fields, strict=True)
    )
    arrays = ", ".join(f"%s::{_carried(field)}[]" for field in (key, *fields))
    named = ", ".join(f'"{column}"' for column in columns)
    sql = (
        f'UPDATE "{options.db_table}" AS t SET {sets} '  # noqa: S608 - names from the model only
        f'FROM unnest({arrays}) AS d("its key", {named}) WHERE t."{key.column}" = d."its key"'
    )
    values = [[_prepared(field, row) for row in rows] for field in (key, *fields)]
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.rowcount)


def _carried(field: models.Field[Any, Any]) -> str:
    """The type a column's values travel as: text where a cast would cut a value short unseen."""
    kind = str(field.db_type(connection))
    return "text" if _is_json(field) or kind.startswith("varchar") else kind


def _back(field: models.Field[Any, Any]) -> str:
    return "::jsonb" if _is_json(field) else ""


def _is_json(field: models.Field[Any, Any]) -> bool:
    return isinstance(field, models.JSONField)


def _prepared(field: models.Field[Any, Any], row: models.Model) -> Any:
    value = getattr(row, field.attname)
    if _is_json(field):
        return None if value is None else json.dumps(value)
    return value
