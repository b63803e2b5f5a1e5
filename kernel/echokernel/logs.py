"""Logging of the command line: standard library, on stderr. A library user's logging is never touched."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

__all__ = ["configure_logging"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


def configure_logging(
    level: str = "info",
    format: str = "text",
    levels: Mapping[str, str] | None = None,
    *,
    also: Iterable[str] = (),
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> logging.Handler:
    """Log this whole process to ``stream`` (stderr), and return the handler that does it.

    For programs that are ours, such as ``echokernel run``: handlers of the user's modules are logged alike. ``format``
    is ``text``, ``json`` or ``auto`` (text on a terminal, json elsewhere); ``levels`` holds those of single plugins.
    ``level`` is that of echokernel and of the packages in ``also``; of everything else, warnings are logged.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    handler = logging.StreamHandler(stream)
    if format == "json" or (format == "auto" and not terminal):
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(colour=terminal and not environ.get("NO_COLOR")))
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "echokernel", False)]:
        root.removeHandler(old)  # called again once the configuration is known
    handler.echokernel = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    for name in ("echokernel", *also):
        logging.getLogger(name).setLevel(level.upper())
    for name, own in (levels or {}).items():
        logging.getLogger(f"echokernel.{name}").setLevel(own.upper())
    return handler


class TextFormatter(logging.Formatter):
    """``12:34:56.789 warning quic: text`` with what was passed as ``extra``."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        name = record.name.removeprefix("echokernel.")
        extra = "".join(f" {key}={value}" for key, value in _extra(record).items())
        line = f"{moment} {record.levelname.lower():7} {name}: {record.getMessage()}{extra}"
        colour = _COLOURS.get(record.levelno)
        if self._colour and colour:
            line = f"\x1b[{colour}m{line}\x1b[0m"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time`` (UTC), ``level``, ``logger``, ``message`` and what was passed as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        entry: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
