"""One section's settings against one pydantic model: every mistake becomes a located problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import AliasChoices, BaseModel, ValidationError

from echokernel._suggest import did_you_mean
from echokernel.config._problems import dotted, unknown
from echokernel.config._sources import Document
from echokernel.config._toml_index import Index, KeyPath
from echokernel.errors import InvalidArgument

__all__ = ["keys_of", "settings_of", "validate"]

M = TypeVar("M", bound=BaseModel)
_QUOTED = re.compile(r"'([^']*)'")


def validate(
    document: Document,
    path: KeyPath,
    model: type[M],
    values: Mapping[str, Any],
    *,
    owner: str,
    also: Iterable[str] = (),
    partly: bool = False,
) -> M | None:
    """Return the settings in ``values``, or None after noting what is wrong with them.

    ``also``: keys that are right at ``path`` and not for this model; they are only offered as what may have been meant.
    An unknown key does not stop the others from being checked. ``partly``: return what is right if something is wrong.
    """
    known = _known_only(document, path, model, values, owner, also)
    try:
        try:
            return model.model_validate(known)
        except ValidationError as error:
            # --set node.name=2024 is a number in TOML; where the model wants a string, the text was meant
            if not _take_texts(document, path, known, error):
                raise
            return model.model_validate(known)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        for detail in wrong:
            _note(document, path, dict(detail), owner)
        if not partly:
            return None
        rest = {key: value for key, value in known.items() if not any(detail["loc"][:1] == (key,) for detail in wrong)}
        return model.model_validate(rest)


def settings_of(model: type[M], values: Mapping[str, Any], *, owner: str) -> M:
    """Return settings given in code or on the command line. Raises InvalidArgument with a line for each mistake."""
    document = Document(Path("settings"), Index(""), dict(values))
    settings = validate(document, (), model, values, owner=owner)
    if settings is None or document.problems:
        raise InvalidArgument("\n".join(problem.message for problem in document.problems))
    return settings


def keys_of(model: type[BaseModel]) -> dict[str, str]:
    """Return the keys that ``model`` accepts, each with the name of its field."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            keys.update((choice, name) for choice in alias.choices if isinstance(choice, str))
        elif isinstance(alias, str):
            keys[alias] = name
        if alias is None or model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"):
            keys[name] = name
    return keys


def _known_only(
    document: Document,
    path: KeyPath,
    model: type[BaseModel],
    values: Mapping[str, Any],
    owner: str,
    also: Iterable[str],
) -> dict[str, Any]:
    """Return the values without unknown keys, which are noted; also where a plugin's model would have ignored them."""
    if model.model_config.get("extra") == "allow":
        return dict(values)
    keys = keys_of(model)
    known: dict[str, Any] = {}
    for key, value in values.items():
        here = (*path, key)
        if key not in keys:
            what = f"{dotted(here)} is not a setting of {owner}"
            document.problem("unknown-key", here, unknown(what, key, {*keys, *also}, label="its settings"))
            continue
        inner = _model_in(model.model_fields[keys[key]].annotation)
        if inner is not None and isinstance(value, dict):
            value = _known_only(document, here, inner, value, owner, ())
        known[key] = value
    return known


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the one model in ``Model`` or ``Model | None``."""
    candidates = [annotation, *get_args(annotation)]
    models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    rest = [c for c in get_args(annotation) if c is not type(None) and c not in models]
    return models[0] if len(models) == 1 and not rest else None


def _take_texts(document: Document, path: KeyPath, values: dict[str, Any], error: ValidationError) -> bool:
    taken = False
    for detail in error.errors(include_url=False, include_input=False):
        override = document.overrides.get((*path, *detail["loc"]))
        if detail["type"] == "string_type" and override is not None and len(detail["loc"]) == 1:
            values[str(detail["loc"][0])] = override.raw
            taken = True
    return taken


def _note(document: Document, path: KeyPath, detail: dict[str, Any], owner: str) -> None:
    place = _place(document, path, detail["loc"])
    if any(place[: len(reference)] == reference for reference in document.unresolved):
        return  # that the value is not there has been said
    kind, message = str(detail["type"]), str(detail["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        missing = (*path, *detail["loc"])
        document.problem("missing", place, f"{dotted(missing)} is missing")
    elif kind == "extra_forbidden":
        extra = (*path, *detail["loc"])
        document.problem("unknown-key", extra, f"{dotted(extra)} is not a setting of {owner}")
    else:
        value = document.get(place)
        if kind in ("literal_error", "enum") and isinstance(value, str) and place not in document.references:
            hint = did_you_mean(value, _QUOTED.findall(str(detail.get("ctx", {}).get("expected", ""))))
            message += f"; {hint}" if hint else ""
        group = "type" if kind.endswith(("_type", "_parsing", "_from_float")) else "value"
        document.problem(group, place, f"{dotted(place)}: {message}")


def _place(document: Document, path: KeyPath, loc: Iterable[str | int]) -> KeyPath:
    """Return the written part of ``loc``: pydantic adds the branches of unions and the names of what is missing."""
    for part in loc:
        value = document.get(path)
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if not inside:
            break
        path = (*path, part)
    return path
