"""Choices in an order of their own: `critical` is more than `warning`, whatever the alphabet says."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Case, IntegerField, Value, When


@dataclass(frozen=True)
class Ranked:
    """A column of choices. values: from the least to the greatest."""

    path: str
    values: tuple[str, ...]

    def expression(self) -> Case:
        """The rank of a row's value in SQL, the same text for an index and a query."""
        return Case(
            *(When(**{self.path: value}, then=Value(n)) for n, value in enumerate(self.values)),
            default=Value(len(self.values)),
            output_field=IntegerField(),
        )

    def rank(self, value: str) -> int:
        """The same in Python; a value that is not listed comes last."""
        return self.values.index(value) if value in self.values else len(self.values)
