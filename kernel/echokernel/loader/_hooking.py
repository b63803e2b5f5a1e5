"""pluggy, as the loader uses it: one plugin's hooks are checked and called at a time, so that an error has an owner."""

from __future__ import annotations

import inspect
from typing import Any

import pluggy

from echokernel import hookspecs
from echokernel._suggest import did_you_mean
from echokernel.errors import PluginError
from echokernel.registry import Registry

__all__ = ["HOOK_NAMES", "HookTrouble", "PluginHooks"]

HOOK_NAMES = tuple(
    name
    for name, value in vars(hookspecs).items()
    if inspect.isfunction(value) and hasattr(value, f"{hookspecs.PROJECT}_spec")
)
"""All hooks, in the order of ``hookspecs.py``, which is the order in which they are called."""


class HookTrouble(Exception):
    """A plugin's hooks are wrong, or one of them failed."""

    def __init__(self, brief: str, reason: str) -> None:
        super().__init__(reason)
        self.brief, self.reason = brief, reason


class PluginHooks:
    """Registers plugins and lets their hooks fill a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    def register(self, name: str, plugin: object) -> None:
        """Check and call the hooks of ``plugin``. Raises HookTrouble, after undoing what it did."""
        self._registry.enter(name)
        try:
            self._register(name, plugin)
        except BaseException:
            self._registry.remove(name)
            # pluggy 1.6 keeps the name of a plugin that it refused, pluggy 1.7 does not
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise
        finally:
            self._registry.enter("(none)")

    def _register(self, name: str, plugin: object) -> None:
        _refuse_unmarked(plugin)
        try:
            self._manager.register(plugin, name=name)
        except pluggy.PluginValidationError as error:
            raise HookTrouble("wrong hooks", _first_line(error)) from error
        except (ValueError, TypeError) as error:  # the same object twice; an object that pluggy cannot look into
            raise HookTrouble("cannot be registered", f"it cannot be registered: {_first_line(error)}") from error
        implemented = [caller.name for caller in self._manager.get_hookcallers(plugin) or ()]
        for hook in implemented:
            if hook not in HOOK_NAMES:
                hint = did_you_mean(hook, HOOK_NAMES) or "see: echokernel hooks"
                raise HookTrouble("unknown hook", f"it implements the hook {hook!r}, which does not exist; {hint}")
        self._manager.check_pending()
        if not implemented:
            raise HookTrouble("no hooks", "it implements no hook: mark its functions with echokernel.hookimpl")
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        for hook in HOOK_NAMES:
            if hook in implemented:
                self._refuse_special_forms(hook, plugin)
                self._call(hook, others)

    def _refuse_special_forms(self, hook: str, plugin: object) -> None:
        caller = getattr(self._manager.hook, hook)
        for implementation in caller.get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            if implementation.wrapper or implementation.hookwrapper:
                raise HookTrouble(
                    "wrong hooks", f"its hook {hook} is a wrapper; hooks register objects and wrap nothing"
                )
            if implementation.kwargnames:  # pluggy 1.7 fills them, 1.6 does not
                raise HookTrouble(
                    "wrong hooks", f"its hook {hook} has a parameter with a default; write {hook}(registry)"
                )

    def _call(self, hook: str, others: list[Any]) -> None:
        caller = self._manager.subset_hook_caller(hook, others)
        try:
            results = caller(registry=self._registry)
        except PluginError as error:  # the registry's own words: a name that is taken
            raise HookTrouble("in conflict", str(error)) from error
        except Exception as error:
            raise HookTrouble("failed", f"its hook {hook} failed: {type(error).__name__}: {error}") from error
        for result in results:
            if inspect.iscoroutine(result):
                result.close()
            if inspect.isawaitable(result) or inspect.isasyncgen(result):
                raise HookTrouble(
                    "async hook", f"its hook {hook} is async, and nobody would await it; hooks are plain functions"
                )
            raise HookTrouble(
                "wrong hooks",
                f"its hook {hook} returned a {type(result).__name__}; hooks register objects and return nothing",
            )


def _refuse_unmarked(plugin: object) -> None:
    mark = f"{hookspecs.PROJECT}_impl"
    for hook in HOOK_NAMES:
        function = inspect.getattr_static(plugin, hook, None)
        if function is not None and not hasattr(getattr(function, "__func__", function), mark):
            raise HookTrouble("wrong hooks", f"its {hook} is not marked as a hook; put @echokernel.hookimpl above it")


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())
