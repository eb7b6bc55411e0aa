"""Logs to stderr: readable on a terminal, JSON otherwise."""

import logging
import sys

import structlog

from cdc_embed.config.sections import LogConfig

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up_logs(config: LogConfig, *, debug: bool = False) -> None:
    """Configure structlog for the process."""
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    # a traceback has the place and the message, never the values that were there
    renderers: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else LEVELS[config.level]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
