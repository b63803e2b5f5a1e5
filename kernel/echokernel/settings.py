"""What a user may write in a configuration, as pydantic models; plugins derive theirs from :class:`Settings`.

Imported only where a configuration is read, checked or described: pydantic takes 0.1 s, which ``--help`` must not cost.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model

from echokernel.engine.broadcast import BroadcastPolicy
from echokernel.limits import Limits

__all__ = [
    "KERNEL_KEYS",
    "ConnectSettings",
    "ListenSettings",
    "LogSettings",
    "NodeSettings",
    "PluginSettings",
    "Settings",
    "UseSettings",
    "attribute_docs",
    "field_docs",
    "limits_of",
    "node_model",
]

Level = Literal["debug", "info", "warning", "error"]


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values are frozen, and no error message shows what was written."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True, use_attribute_docstrings=True
    )


class NodeSettings(Settings):
    """``[node]``: this node. The fields of :class:`~echokernel.limits.Limits` stand here as well."""

    name: str = Field("echokernel", min_length=1, max_length=128)
    """What the node calls itself, to peers and in logs."""
    handlers: list[str] = []
    """Modules with handlers, or ``module:object``; looked for beside the configuration file as well."""
    serializers: list[str] = []
    """Names in order of preference; empty: all that the plugins register, in the order of ``plugins``."""
    middleware: list[str] = []
    """Names of ``[middleware.NAME]``, or of registered middleware that needs no settings; outermost first."""
    tracebacks: bool = False
    """Send the tracebacks of handlers that fail to their callers, who learn paths and names of variables; for development."""
    broadcast: dict[str, BroadcastPolicy] = {}
    """What becomes of broadcasts at sessions that are behind: policies by event, ``wait`` for those that are not named."""
    describe: bool = True
    """Answer peers that ask for the node's methods, plugins and versions, as ``echokernel describe`` does."""


class ListenSettings(Settings):
    """``[listen.NAME]``: where the node listens. Further settings are those of the URL's transport."""

    url: str
    """Where to listen: ``quic://127.0.0.1:4433``. Port 0: any free one. The scheme chooses the transport."""
    authenticators: list[str] = []
    """Names of ``[authenticator.NAME]``, or of registered authenticators that need no settings; asked in this order."""
    allow_anonymous: bool = False
    """Let everybody in who can reach a public address. Warns at every start."""


class ConnectSettings(Settings):
    """``[connect.NAME]``: a node to connect to. Further settings are those of the URL's transport."""

    url: str
    """The node's address: ``quic://127.0.0.1:4433``."""
    credentials: SecretStr | None = None
    """What the node's authenticators want to see; better ``{ env = "NAME" }`` than the text itself."""
    reconnect: str | None = None
    """Name of a reconnect policy; none: a lost connection stays lost."""


class UseSettings(Settings):
    """``[middleware.NAME]``, ``[authenticator.NAME]``, ``[service.NAME]``, with the settings of what is used."""

    use: str | None = None
    """The registered name; the section's own name where it is left out."""


class PluginSettings(Settings):
    """``[plugin.NAME]``: what concerns the plugin as a whole."""

    on_error: Literal["error", "skip"] = "error"
    """``error``: the node does not start without the plugin. ``skip``: it starts, with a warning."""


class LogSettings(Settings):
    """``[log]``: what is logged, on stderr."""

    level: Level = "info"
    """Least severity that is logged."""
    format: Literal["text", "json", "auto"] = "text"
    """``text``, ``json`` (one object per line), or ``auto``: text on a terminal and json elsewhere."""
    levels: dict[str, Level] = {}
    """Levels of single plugins or kernel modules: ``levels = { quic = "debug" }``."""


KERNEL_KEYS: dict[str, type[Settings]] = {
    "listen": ListenSettings,
    "connect": ConnectSettings,
    "middleware": UseSettings,
    "authenticator": UseSettings,
    "service": UseSettings,
    "plugin": PluginSettings,
}
"""The keys that the kernel itself understands in each section with names."""


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below the attributes of ``cls`` and its bases, for help texts and examples."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # no source: a class made at run time
            continue
        body = getattr(tree.body[0], "body", [])
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                docs[statement.target.id] = inspect.cleandoc(following.value.value)
    return docs


def field_docs(model: type[Any]) -> dict[str, str]:
    """Return what is said about each field of a pydantic model or dataclass."""
    docs = attribute_docs(model) if model.__module__ != "builtins" else {}
    fields = getattr(model, "model_fields", {})
    return {**docs, **{name: field.description for name, field in fields.items() if field.description}}


@functools.cache
def node_model() -> type[NodeSettings]:
    """Return the model of ``[node]``: :class:`NodeSettings` and all limits, each with its documentation."""
    docs, types = attribute_docs(Limits), get_type_hints(Limits)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Limits):
        # neither infinity nor "not a number" is a bound
        extra: dict[str, Any] = {"allow_inf_nan": False} if types[field.name] is float else {}
        fields[field.name] = (types[field.name], Field(field.default, description=docs.get(field.name), **extra))
    return create_model("Node", __base__=NodeSettings, __doc__=NodeSettings.__doc__, **fields)


def limits_of(node: NodeSettings) -> Limits:
    """Return the limits that stand in ``[node]``. Raises ValueError naming the field that is out of bounds first."""
    return Limits(**{field.name: getattr(node, field.name) for field in dataclasses.fields(Limits)})
