"""Handlers from the modules that ``node.handlers`` names: ``module``, or ``module:object``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from echokernel._suggest import did_you_mean

__all__ = ["HandlerTrouble", "find_handlers"]

KIND = "__echokernel_kind__"
"""What ``@rpc``, ``@event`` and ``@stream`` leave on their handlers."""
KINDS = ("rpc", "event", "stream")


class HandlerTrouble(Exception):
    """A name in ``node.handlers`` leads to no handlers; the message says why."""


def find_handlers(name: str, directory: Path) -> list[Any]:
    """Import ``module`` or ``module:object`` and return its handlers, in the order in which they were defined.

    Modules beside the configuration file, in ``directory``, are found too, after all others: a file there called
    ``types.py`` must not stand in for Python's own. Raises HandlerTrouble.
    """
    module_name, colon, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not attribute):
        raise HandlerTrouble(f"{name!r} is neither a module nor module:object")
    module = _import(module_name, directory)
    if not attribute:
        found = _handlers_in(module)
        if not found:
            where = getattr(module, "__file__", None) or "built in"
            raise HandlerTrouble(
                f"module {module_name!r} ({where}) has no handlers; mark them with @rpc, @event or @stream"
            )
        return found
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            hint = did_you_mean(part, [known for known in vars(value) if not known.startswith("_")])
            raise HandlerTrouble(f"module {module_name!r} has no {attribute!r}" + (f"; {hint}" if hint else ""))
        value = getattr(value, part)
    handlers = list(value) if isinstance(value, list | tuple) else [value]
    for handler in handlers:
        if not (isinstance(getattr(handler, "name", None), str) and callable(getattr(handler, "handle", None))):
            raise HandlerTrouble(
                f"{name!r} is no handler: it needs a name and a method handle, or one of the decorators"
            )
    return handlers


def _import(name: str, directory: Path) -> ModuleType:
    beside = str(directory.resolve())
    if beside not in sys.path:
        sys.path.append(beside)
        importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            files = [file.stem for file in directory.resolve().glob("*.py")]
            hint = did_you_mean(name, files) or f"it is neither installed nor in {beside}"
            raise HandlerTrouble(f"there is no module {name!r}; {hint}") from error
        raise HandlerTrouble(f"module {name!r} cannot be imported: {error}; is it installed?") from error
    except Exception as error:
        raise HandlerTrouble(f"module {name!r} cannot be imported: {_where(error, name)}") from error


def _handlers_in(module: ModuleType) -> list[Any]:
    # by identity: two names for one handler are one handler
    marked = [value for value in vars(module).values() if getattr(value, KIND, None) in KINDS]
    return list({id(value): value for value in marked}.values())


def _where(error: BaseException, module: str) -> str:
    """Return the error with the place of the user's own code that it came from, not one inside importlib."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text  # has its own file and line
    traceback = error.__traceback__
    place = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if traceback.tb_frame.f_globals.get("__name__") == module:
            place = f" ({code.co_filename}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return text + place
