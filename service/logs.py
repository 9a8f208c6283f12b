"""How every process logs: a line an event on stderr, and tracebacks without the values of variables."""

import logging
import sys
from io import StringIO
from typing import TextIO

import structlog
from structlog.typing import ExcInfo

from service.marks import visible


def written_out(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What strangers wrote must not do anything to the terminal that shows it; of an exception its words, too."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in event.items()}


def _traceback(to: TextIO, about: ExcInfo) -> None:
    text = StringIO()
    structlog.dev.plain_traceback(text, about)
    to.write(visible(text.getvalue()))


# One list for good: loggers that were used keep it, and who looks at what is logged puts himself into it.
PROCESSORS: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    written_out,
    # Values of variables may be secrets or somebody's data, so no traceback shows them.
    structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback, pad_event_to=0),
]


def configure_logs() -> None:
    structlog.configure(
        processors=PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
