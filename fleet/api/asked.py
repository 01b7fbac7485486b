"""Query strings in which every name must be known: a filter with a typo would else answer for everything."""

from typing import Any

from ninja import Schema
from ninja.errors import ValidationError
from pydantic import ValidationInfo, model_validator


class Asked(Schema):
    """The whole query string of a request. A name that is no field is refused as `validation`."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any, info: ValidationInfo) -> Any:
        request = (info.context or {}).get("request")
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = [name for name in (request.GET if request is not None else ()) if name not in known]
        if unknown:
            raise ValidationError(
                [
                    {"loc": ("query", name), "type": "extra_forbidden", "msg": "there is no such parameter"}
                    for name in unknown[:10]
                ]
            )
        return values
