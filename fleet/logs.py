"""JSON logs on stderr: one object a line, with whatever ids the caller bound
(`structlog.contextvars.bind_contextvars`).
"""

import logging
import logging.config
from typing import Any

import structlog

_CHAIN: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
]


class WithoutRoutine(logging.Filter):
    """Leaves out what Celery says of every task that was sent, received and done: several lines a second."""

    _ROUTINE = ("celery.app.trace", "celery.worker.strategy")

    def filter(self, record: logging.LogRecord) -> bool:
        """True when the record is kept: all warnings and errors are."""
        if record.levelno >= logging.WARNING:
            return True
        if record.name in self._ROUTINE:
            return False
        return not (record.name == "celery.beat" and "Sending due task" in record.getMessage())


def json_formatter() -> logging.Formatter:
    """Formatter that renders standard-library and structlog records alike as one JSON object a line."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_CHAIN,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
    )


def configure(config: dict[str, Any]) -> None:
    """Apply Django's LOGGING dictionary and route structlog through it."""
    logging.config.dictConfig(config)
    structlog.configure(
        processors=[*_CHAIN, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
