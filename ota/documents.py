"""What every signed document has in common: its error and the way from COSE and CBOR errors to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.shape import Shape
from ota.errors import OtaError


class DocumentError(OtaError):
    """A signed document was refused; `code` is one of the refusal codes of SPEC.md section 5."""


@contextmanager
def refusing_as(error: type[DocumentError]) -> Iterator[None]:
    """Turn codec errors of the block into `error` with the same code and text."""
    try:
        yield
    except CodecError as refused:
        raise error(refused.code, refused.text) from refused


def document_shape(error: type[DocumentError]) -> Shape:
    """A field reader that raises `error` with code `schema`."""
    return Shape("schema", error)
