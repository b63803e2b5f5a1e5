"""The JSON Schema of a configuration over the installed plugins, for editors: they read a ``#:schema`` line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from echokernel.registry import Factory, Registered, Registry
from echokernel.settings import (
    ConnectSettings,
    ListenSettings,
    LogSettings,
    PluginSettings,
    Settings,
    UseSettings,
    node_model,
)

__all__ = ["schema"]

REFERENCE = {
    "oneOf": [
        {
            "type": "object",
            "description": f"The value is {what}.",
            "properties": {key: {"type": "string"}},
            "required": [key],
            "additionalProperties": False,
        }
        for key, what in (("env", "that of an environment variable"), ("file", "the content of a file"))
    ]
}


def schema(registry: Registry) -> dict[str, Any]:
    """Return the schema. References stand wherever a value may; no keyword is newer than draft 7."""
    sections: dict[str, list[type[BaseModel]]] = {
        "listen": [
            _model(f"Listen {scheme}", ListenSettings, entry.value.listen_settings)
            for scheme, entry in registry.transports.items()
        ],
        "connect": [
            _model(f"Connect {scheme}", ConnectSettings, entry.value.connect_settings)
            for scheme, entry in registry.transports.items()
        ],
        "plugin": [PluginSettings],
    }
    tables: dict[str, Mapping[str, Registered[Factory[Any]]]] = {
        "middleware": registry.middlewares,
        "authenticator": registry.authenticators,
        "service": registry.services,
    }
    for section, table in tables.items():
        sections[section] = [_used(section, name, entry.value.settings) for name, entry in table.items()]
    node = node_model()
    models: list[type[BaseModel]] = [node, LogSettings, *(model for group in sections.values() for model in group)]
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/$defs/{model}"
    )
    defs = {name: _with_references(value) for name, value in definitions.get("$defs", {}).items()}
    defs["Reference"] = REFERENCE

    def ref(model: type[BaseModel]) -> dict[str, Any]:
        return dict(references[(model, "validation")])

    properties: dict[str, Any] = {
        "plugins": {
            "type": "array",
            "items": {"type": "string"},
            "uniqueItems": True,
            "description": "Plugins in use, in order: nothing else is imported.",
        },
        "node": ref(node),
    }
    for section, group in sections.items():
        choices = [ref(model) for model in group]
        values: Any = {"anyOf": choices} if len(choices) > 1 else choices[0] if choices else False
        properties[section] = {"type": "object", "additionalProperties": values}
    properties["log"] = ref(LogSettings)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "echokernel configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": defs,
    }


def _model(title: str, kernel: type[Settings], theirs: type[BaseModel] | None) -> type[BaseModel]:
    """Return one model with the kernel's fields and the plugin's; only described, never used to validate."""
    fields: dict[str, Any] = {}
    for model in (theirs, kernel):  # the kernel's keys win
        for name, field in model.model_fields.items() if model else ():
            fields[name] = (field.annotation, field)
    created: type[BaseModel] = create_model(
        title.title().replace(" ", ""),
        __config__=ConfigDict(extra="forbid", title=title),
        __doc__=kernel.__doc__,
        **fields,
    )
    return created


def _used(section: str, name: str, theirs: type[BaseModel] | None) -> type[BaseModel]:
    model = _model(f"{section} {name}", UseSettings, theirs)
    use: Any = (
        Literal[name],
        Field(name, description=f"The registered {section}; the section's own name where it is left out."),
    )
    created: type[BaseModel] = create_model(model.__name__, __base__=model, use=use)
    return created


def _with_references(value: Any) -> Any:
    """Let ``{ env = … }`` and ``{ file = … }`` stand for every property and every element of an array."""
    if isinstance(value, list):
        return [_with_references(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _with_references(item) for key, item in value.items()}
    if isinstance(changed.get("properties"), dict):
        changed["properties"] = {name: _or_reference(item) for name, item in changed["properties"].items()}
    if isinstance(changed.get("items"), dict):
        changed["items"] = _or_reference(changed["items"])
    return changed


def _or_reference(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    outside = {key: value[key] for key in ("title", "description", "default") if key in value}
    inside = {key: item for key, item in value.items() if key not in outside}
    return {**outside, "anyOf": [inside, {"$ref": "#/$defs/Reference"}]}
