"""What pydantic checks: constraints in annotations, and models. Imported with the first type that has any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from echokernel.types import Length, Scalar
from echokernel_postcard.wire import Unfit, key_step

_HOMES = frozenset({"annotated_types", "pydantic", "pydantic_core"})


def constraints(metadata: tuple[Any, ...]) -> list[Any]:
    """Return what of an annotation's metadata may refuse a value."""
    found: list[Any] = []
    for each in metadata:
        home = type(each).__module__.partition(".")[0]
        if isinstance(each, Scalar | Length):
            continue
        if type(each).__name__ == "FieldInfo" and home == "pydantic":
            found += constraints(tuple(each.metadata))
        elif home in _HOMES or hasattr(each, "__get_pydantic_core_schema__"):
            found.append(each)
    return found


def checker(annotation: Any, name: str) -> Callable[[Any], Any]:
    """Return a function that applies the constraints of ``annotation``. Raises Unfit for those that make no sense."""
    from pydantic import TypeAdapter

    try:
        validate = TypeAdapter(annotation).validator.validate_python
    except Exception as error:
        raise Unfit(f"pydantic takes no such constraint for {name}: {type(error).__name__}") from error
    return guarded(validate)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with its errors made an Unfit: pydantic's in its words, others by their name."""
    from pydantic_core import ValidationError

    def call(*values: Any, **named: Any) -> Any:
        try:
            return function(*values, **named)
        except ValidationError as error:
            raise explain(error) from None  # the error itself shows the input, and payloads stay out of logs
        except Exception as error:
            raise Unfit(f"validation failed with {type(error).__name__}") from error

    return call


def explain(error: Any) -> Unfit:
    """Return pydantic's words for the first problems, and the place of the first."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    first = [key_step(step) for step in details[0]["loc"] if isinstance(step, int) or str(step).isidentifier()]
    more = f"; and {len(details) - 1} more" if len(details) > 1 else ""
    unfit = Unfit(details[0]["msg"] + more)
    unfit.path = first
    return unfit
