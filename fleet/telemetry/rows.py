"""Rows of one read-only statement within the time that a question may take."""

from collections.abc import Mapping
from typing import Any, Final

from django.db import OperationalError, connection, transaction
from psycopg import errors as pg_errors

from fleet.telemetry.errors import QueryError

TIMEOUT_S: Final = 5


def rows_of(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What a statement finds within TIMEOUT_S. Raises QueryError `query_timeout`."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{TIMEOUT_S}s'")
            cursor.execute(statement, parameters)
            return list(cursor.fetchall())
    except OperationalError as error:
        if isinstance(error.__cause__, pg_errors.QueryCanceled):
            raise QueryError("query_timeout", f"no answer within {TIMEOUT_S} s: ask for less") from error
        raise
