"""A whole configuration against what the plugins registered: settings, references, and what has to fit together."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from echokernel.addresses import DEFAULT_SCHEME, NO_PORT, Address, parse_address
from echokernel.config._models import validate
from echokernel.config._parts import ConnectConfig, ListenConfig, PartConfig
from echokernel.config._plugins import load_named
from echokernel.config._problems import dotted, unknown
from echokernel.config._sources import Document
from echokernel.config._toml_index import KeyPath
from echokernel.engine.broadcast import check_event
from echokernel.errors import InvalidArgument
from echokernel.installed import OFFICIAL
from echokernel.limits import Limits
from echokernel.loader import Loaded, PluginLoader
from echokernel.registry import Factory, Registered
from echokernel.settings import (
    KERNEL_KEYS,
    ConnectSettings,
    ListenSettings,
    LogSettings,
    NodeSettings,
    Settings,
    UseSettings,
    limits_of,
    node_model,
)

__all__ = ["Checker"]

T = TypeVar("T")
S = TypeVar("S", bound=Settings)
SECTIONS = ("plugins", "node", *KERNEL_KEYS, "log")


class Checker:
    """Goes through a document once; results are attributes, mistakes are in ``document.problems``."""

    def __init__(self, document: Document, loader: PluginLoader) -> None:
        self._document = document
        self._loader = loader
        self._registry = loader.registry
        self._failed: set[str] = set()
        self.plugins: tuple[str, ...] = ()
        self.models: list[tuple[KeyPath, BaseModel]] = []
        """Every validated model with its place, for ``config show``."""
        self.node: NodeSettings = node_model().model_validate({})
        self.limits = Limits()
        self.log = LogSettings()
        self.listen: dict[str, ListenConfig] = {}
        self.connect: dict[str, ConnectConfig] = {}
        self.middleware: list[PartConfig] = []
        self.authenticators: dict[str, PartConfig] = {}
        self.services: dict[str, PartConfig] = {}

    @property
    def loaded(self) -> Loaded:
        return self._loader.loaded

    def check(self, without: Sequence[str] = ()) -> None:
        """Check everything; a mistake in one section does not keep the others from being checked."""
        for key in self._document.data:
            if key not in SECTIONS:
                what = f"there is no section {key!r}"
                self._document.problem("unknown-key", (key,), unknown(what, key, SECTIONS, label="sections"))
        self.plugins, self._failed = load_named(self._document, self._loader, without)
        self._check_node()
        used_authenticators = self._check_listen()
        self._check_connect()
        self._check_serializers()
        self.middleware = list(
            self._named("middleware", self._registry.middlewares, self.node.middleware, ("node",)).values()
        )
        self.authenticators = self._named(
            "authenticator", self._registry.authenticators, used_authenticators, ("listen",)
        )
        self._check_services()
        self._check_log()

    # --- node and log -----------------------------------------------------------------------------------------------

    def _check_node(self) -> None:
        path = ("node",)
        settings = self._kernel_part(path, node_model(), self._document.table(path), owner="[node]", partly=True)
        if settings is None:
            return
        self.node = settings
        for key in ("handlers", "serializers", "middleware"):
            self._refuse_doubles(getattr(settings, key), (*path, key))
        written = self._document.get((*path, "broadcast"))
        for event in written if isinstance(written, dict) else ():  # also beside a policy that is wrong
            try:
                check_event(event)
            except InvalidArgument as error:
                self._document.problem("value", (*path, "broadcast", event), f"node.broadcast: {error}")
        try:
            self.limits = limits_of(settings)
        except ValueError as error:
            name = str(error).split(" ", 1)[0]
            self._document.problem("value", (*path, name), f"node.{error}")

    def _check_log(self) -> None:
        settings = self._kernel_part(("log",), LogSettings, self._document.table(("log",)), owner="[log]", partly=True)
        if settings is None:
            return
        self.log = settings
        modules = {info.name for info in pkgutil.iter_modules([str(Path(__file__).parents[1])]) if info.name[0] != "_"}
        for name in settings.levels:
            if name not in modules and name not in self.plugins:
                what = f"log.levels: {name!r} is neither a plugin in use nor a module of the kernel"
                known = {*self.plugins, *modules}
                self._document.problem(
                    "reference", ("log", "levels", name), unknown(what, name, known, label="there are")
                )

    def _check_serializers(self) -> None:
        for number, name in enumerate(self.node.serializers):
            self._registered("serializer", self._registry.serializers, name, ("node", "serializers", number))
        if (self.listen or self.connect) and not self._registry.serializers and not self._failed:
            self._document.problem(
                "reference", ("plugins",), 'no plugin in use registers a serializer; add "msgpack" to plugins'
            )

    # --- listen and connect -----------------------------------------------------------------------------------------

    def _check_listen(self) -> dict[str, KeyPath]:
        """Return the authenticators that listeners name, each with the place of its first mention."""
        used: dict[str, KeyPath] = {}
        taken: dict[Address, str] = {}
        for name, values in self._document.instances("listen"):
            path = ("listen", name)
            kernel, address, settings = self._transport_part(path, ListenSettings, values)
            if kernel is not None:
                for number, authenticator in enumerate(kernel.authenticators):
                    used.setdefault(authenticator, (*path, "authenticators", number))
                self._refuse_doubles(kernel.authenticators, (*path, "authenticators"))
            if kernel is None or address is None or settings is None:
                continue
            if address.port and address in taken:
                self._document.problem(
                    "value", (*path, "url"), f"{address} is the address of [listen.{taken[address]}] already"
                )
            taken[address] = name
            self.listen[name] = ListenConfig(
                name, address, tuple(kernel.authenticators), kernel.allow_anonymous, settings
            )
        return used

    def _check_connect(self) -> None:
        for name, values in self._document.instances("connect"):
            path = ("connect", name)
            kernel, address, settings = self._transport_part(path, ConnectSettings, values)
            if kernel is not None and kernel.reconnect is not None:
                self._registered("reconnect policy", self._registry.reconnects, kernel.reconnect, (*path, "reconnect"))
            if address is not None and not address.port:
                self._document.problem(
                    "value", (*path, "url"), f"{dotted((*path, 'url'))}: nobody can be reached at port 0"
                )
            if kernel is not None and address is not None and settings is not None:
                self.connect[name] = ConnectConfig(name, address, kernel.credentials, kernel.reconnect, settings)

    def _transport_part(
        self, path: KeyPath, model: type[S], values: Mapping[str, Any]
    ) -> tuple[S | None, Address | None, BaseModel | None]:
        """Check the kernel's settings and those of the transport that the URL's scheme chooses."""
        keys = model.model_fields.keys()
        mine = {key: value for key, value in values.items() if key in keys}
        kernel = self._kernel_part(path, model, mine, owner=f"[{dotted(path)}]")
        url = values.get("url")
        if not isinstance(url, str) or (*path, "url") in self._document.unresolved:
            return kernel, None, None
        try:
            address = parse_address(url, named=model is ConnectSettings)
            if address.port == NO_PORT and address.scheme not in self._registry.discoveries:
                parse_address(url)  # says what was wanted
        except InvalidArgument as error:
            self._document.problem("value", (*path, "url"), f"{dotted((*path, 'url'))}: {error}")
            return kernel, None, None
        scheme = DEFAULT_SCHEME if address.port == NO_PORT else address.scheme  # with that it is dialled when it is found
        transport = self._registered("transport", self._registry.transports, scheme, (*path, "url"))
        if transport is None:
            return kernel, None, None
        theirs = {key: value for key, value in values.items() if key not in keys}
        wanted = transport.listen_settings if model is ListenSettings else transport.connect_settings
        settings = validate(self._document, path, wanted, theirs, owner=f"transport {scheme!r}", also=keys)
        if settings is not None:
            self.models.append((path, settings))
        return kernel, address, settings

    # --- middleware, authenticators, services -----------------------------------------------------------------------

    def _named(
        self,
        section: str,
        registered: Mapping[str, Registered[Factory[Any]]],
        names: Sequence[str] | Mapping[str, KeyPath],
        user: KeyPath,
    ) -> dict[str, PartConfig]:
        """Return the parts used under ``names``: sections of their own, or what is registered and needs no settings."""
        parts = self._parts(section, registered)
        sections = dict(self._document.instances(section, quiet=True))
        places = names if isinstance(names, Mapping) else {n: (*user, section, i) for i, n in enumerate(names)}
        found: dict[str, PartConfig] = {}
        for name, place in places.items():
            if name in sections:
                if name in parts:
                    found[name] = parts[name]
                continue
            factory = self._registered(section, registered, name, place, also=sections)
            settings: BaseModel | None = None
            if factory is None:
                continue
            if factory.settings is not None:
                try:
                    settings = factory.settings()
                except ValidationError:
                    self._document.problem(
                        "reference", place, f"{section} {name!r} needs settings; write [{section}.{name}]"
                    )
                    continue
            found[name] = PartConfig(name, name, settings)
        key = section if section == "middleware" else "authenticators"
        unsure = any(problem.path[:1] == user and key in problem.path for problem in self._document.problems)
        for name in sections:
            if name not in places and not unsure:  # it would look as if it were active
                where = "node.middleware" if section == "middleware" else "authenticators of a [listen.NAME]"
                self._document.problem(
                    "reference", (section, name), f"[{section}.{name}] is not used; name it in {where}"
                )
        return found

    def _check_services(self) -> None:
        self.services = self._parts("service", self._registry.services)

    def _parts(self, section: str, registered: Mapping[str, Registered[Factory[Any]]]) -> dict[str, PartConfig]:
        parts: dict[str, PartConfig] = {}
        for name, values in self._document.instances(section):
            path = (section, name)
            mine = {key: value for key, value in values.items() if key == "use"}
            theirs = {key: value for key, value in values.items() if key != "use"}
            kernel = self._kernel_part(path, UseSettings, mine, owner=f"[{dotted(path)}]")
            if kernel is None:
                continue
            use = kernel.use or name
            factory = self._registered(section, registered, use, (*path, "use") if kernel.use else path)
            if factory is None:
                continue
            model = factory.settings or Settings
            settings = validate(self._document, path, model, theirs, owner=f"{section} {use!r}", also=("use",))
            if settings is not None:
                self.models.append((path, settings))
                parts[name] = PartConfig(name, use, settings if factory.settings else None)
        return parts

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _registered(
        self,
        kind: str,
        table: Mapping[str, Registered[T]],
        name: str,
        path: KeyPath,
        *,
        also: Mapping[str, object] | None = None,
    ) -> T | None:
        """Return what is registered as ``name``, or None after saying what there is instead."""
        if name in table:
            return table[name].value
        if name in self._failed:
            return None  # that plugin's problem has been reported
        what = f"{dotted(path)}: no plugin in use registers the {kind} {name!r}"
        skipped = next((plugin for plugin in self._loader.loaded.skipped if plugin.name == name), None)
        if skipped is not None:
            message = f"{what}; plugin {name!r} was skipped: {skipped.reason}"
        elif name in OFFICIAL and name not in self.plugins:
            message = f'{what}; add "{name}" to plugins'
        else:
            message = unknown(what, name, {*table, *(also or ())}, label="there are")
        self._document.problem("reference", path, message)
        return None

    def _kernel_part(
        self, path: KeyPath, model: type[S], values: Mapping[str, Any], *, owner: str, partly: bool = False
    ) -> S | None:
        settings = validate(self._document, path, model, values, owner=owner, partly=partly)
        if settings is not None:
            self.models.append((path, settings))
        return settings

    def _refuse_doubles(self, names: Sequence[str], path: KeyPath) -> None:
        for number, name in enumerate(names):
            if name in names[:number]:
                self._document.problem("value", (*path, number), f"{dotted(path)}: {name!r} is listed twice")
