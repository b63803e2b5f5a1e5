"""One log line for each event of a connection: what happened and to whom, never what was said."""

from __future__ import annotations

import logging
from collections.abc import Mapping

__all__ = ["log_event", "logger"]

logger = logging.getLogger("echokernel.agora")
RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # what a log record has already
WARNINGS = frozenset({"slow"})
MAX_VALUE = 256  # characters; names come from clients


def log_event(name: str, fields: Mapping[str, object]) -> None:
    """Log an event as the kernel logs: a word, and its fields as ``extra`` (key=value, or members of a JSON object)."""
    level = logging.WARNING if name in WARNINGS else logging.INFO
    if logger.isEnabledFor(level):
        extra = {f"agent_{key}" if key in RESERVED else key: _plain(value) for key, value in fields.items()}
        logger.log(level, name, extra=extra)


def _plain(value: object) -> object:
    """A value that fits into a line: a client's text must not begin another one."""
    if not isinstance(value, str):
        return value
    text = value if value.isprintable() else value.encode("unicode_escape").decode("ascii")
    return text[:MAX_VALUE]
