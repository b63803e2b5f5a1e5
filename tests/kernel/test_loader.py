"""The loader's rules, one test each, with distributions that exist only here."""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path

import pytest
from fake_plugins import EVERYTHING, SERIALIZER, FakeSite

from echokernel.errors import InvalidArgument, PluginError
from echokernel.hookspecs import hookimpl
from echokernel.loader import PluginFailure, installed_plugins, load_for_library, load_plugins, make_transport
from echokernel.registry import Registry

HOOK = "from echokernel.hookspecs import hookimpl\n\n"
REGISTERS = HOOK + "@hookimpl\ndef echokernel_discovery(registry):\n    registry.discovery({name!r}, object)\n"


def failure(*names: object, on_error: str = "error") -> PluginFailure:
    with pytest.raises(PluginFailure) as caught:
        load_plugins(names, environ={})
    return caught.value


# --- scanning -------------------------------------------------------------------------------------------------------


def test_scanning_imports_nothing(site: FakeSite) -> None:
    module = site.plugin("bomb", "raise RuntimeError('imported')")
    [plugin] = [plugin for plugin in installed_plugins() if plugin.name == "bomb"]
    assert (plugin.distribution, plugin.version, plugin.api, plugin.problem) == ("echokernel-bomb", "0.1.0", 1, None)
    assert plugin.location == str(site.path)
    assert not plugin.editable
    assert module not in sys.modules


def test_an_editable_install_shows_its_project(site: FakeSite) -> None:
    info = site.distribution("echokernel-mine", entries={"mine": "mine"})
    (info / "direct_url.json").write_text('{"url": "file:///projects/mine", "dir_info": {"editable": true}}')
    [plugin] = [plugin for plugin in installed_plugins() if plugin.name == "mine"]
    assert (plugin.location, plugin.editable) == ("/projects/mine", True)


def test_a_plugin_for_another_api_is_listed_and_refused(site: FakeSite) -> None:
    site.distribution("echokernel-mdns", "2.0", entries={"mdns2": "m"}, group="echokernel.plugins.v2")
    [plugin] = [plugin for plugin in installed_plugins() if plugin.name == "mdns2"]
    assert plugin.api == 2
    assert "it is for API 2; this kernel" in (plugin.problem or "")
    error = failure("mdns2")
    assert "speaks 1; install a version of echokernel-mdns for API 1" in str(error)
    assert error.brief == "needs API 2"


def test_a_distribution_may_serve_two_apis_under_one_name(site: FakeSite) -> None:
    text = "[echokernel.plugins.v1]\nboth = both_v1\n[echokernel.plugins.v2]\nboth = both_v2\n"
    site.distribution("echokernel-both", entry_points=text)
    site.module("both_v1", REGISTERS.format(name="both"))
    assert [plugin.api for plugin in installed_plugins() if plugin.name == "both"] == [1]
    assert "both" in load_plugins(["both"], environ={}).registry.discoveries


def test_equal_names_from_two_distributions_are_an_error_naming_both(site: FakeSite) -> None:
    site.distribution("acme-shout", "1.0", entries={"shout": "a"})
    site.distribution("other-shout", "2.0", entries={"shout": "b"})
    assert str(failure("shout")) == (
        "plugin 'shout' (acme-shout 1.0): the name 'shout' is claimed by acme-shout 1.0 and other-shout 2.0; "
        "uninstall one of them: pip uninstall acme-shout or pip uninstall other-shout"
    )
    assert all(plugin.problem for plugin in installed_plugins() if plugin.name == "shout")


def test_names_that_differ_only_in_dashes_are_equal(site: FakeSite) -> None:
    site.distribution("a", entries={"my_auth": "a"})
    site.distribution("b", entries={"my-auth": "b"})
    assert "is claimed by a 0.1.0 and b 0.1.0" in str(failure("my-auth"))


def test_one_distribution_twice_on_the_path_counts_once(
    site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("twice", REGISTERS.format(name="twice"))
    second = FakeSite(tmp_path / "second")
    second.distribution("echokernel-twice", "9.9", entries={"twice": "elsewhere"})
    monkeypatch.syspath_prepend(str(second.path))
    sys.path.remove(str(second.path))
    sys.path.append(str(second.path))
    assert [plugin.version for plugin in installed_plugins() if plugin.name == "twice"] == ["0.1.0"]
    assert load_plugins(["twice"], environ={}).start_line() == "plugins: twice 0.1.0"


def test_unreadable_metadata_is_a_problem_of_that_distribution_alone(site: FakeSite) -> None:
    site.distribution("echokernel-odd", entry_points="[echokernel.plugins.v1]\nno equals sign\n")
    (site.distribution("echokernel-nameless", "3.1", entries={"nameless": "x"}) / "METADATA").unlink()
    site.plugin("fine", REGISTERS.format(name="fine"))
    found = {plugin.name: plugin for plugin in installed_plugins()}
    assert found["fine"].problem is None
    assert (found["nameless"].distribution, found["nameless"].version) == ("echokernel_nameless", "3.1")
    assert "its entry_points.txt cannot be read" in (found["echokernel-odd"].problem or "")


# --- Requires-Dist --------------------------------------------------------------------------------------------------


def test_requirements_are_checked_again(site: FakeSite) -> None:
    module = site.plugin("old", "raise RuntimeError", requires=["pluggy>=1", "pluggy<0.5", "no-such-thing"])
    error = failure("old")
    assert error.reason.startswith("it needs pluggy<0.5, and pluggy ")
    assert error.remedy == "run: pip install 'pluggy<0.5'"
    assert error.brief == "needs pluggy<0.5"
    assert module not in sys.modules


def test_a_missing_requirement_is_named(site: FakeSite) -> None:
    site.plugin("lonely", "", requires=["no-such-distribution>=2"])
    assert "it needs no-such-distribution>=2, which is not installed" in str(failure("lonely"))


def test_requirements_of_extras_and_of_other_systems_do_not_matter(site: FakeSite) -> None:
    other = ["no-such-a; extra == 'speed'", "no-such-b; sys_platform == 'atari'"]
    site.plugin("modest", REGISTERS.format(name="modest"), requires=other)
    assert load_plugins(["modest"], environ={}).start_line() == "plugins: modest 0.1.0"


def test_a_requirement_that_cannot_be_read(site: FakeSite) -> None:
    site.plugin("garbled", "", requires=["what is this"])
    assert "its Requires-Dist 'what is this' cannot be read" in str(failure("garbled"))


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_only_named_plugins_are_imported_in_their_order(site: FakeSite) -> None:
    first = site.plugin("first", REGISTERS.format(name="first"))
    second = site.plugin("second", REGISTERS.format(name="second"))
    bomb = site.plugin("bomb", "raise RuntimeError")
    loaded = load_plugins(["second", "first"], environ={})
    assert loaded.start_line() == "plugins: second 0.1.0, first 0.1.0"
    assert list(loaded.registry.discoveries) == ["second", "first"]
    assert {first, second} <= set(sys.modules)
    assert bomb not in sys.modules


def test_a_missing_official_plugin_names_its_command(monkeypatch: pytest.MonkeyPatch, site: FakeSite) -> None:
    monkeypatch.setattr("echokernel.loader._loading.OFFICIAL", ("pigeon",))  # the others may be installed here
    assert str(failure("pigeon")) == (
        "plugin 'pigeon': no installed plugin is called 'pigeon'; install it: pip install 'echokernel[pigeon]'"
    )


def test_a_missing_foreign_plugin_is_offered_no_command(site: FakeSite) -> None:
    site.plugin("acme-auth", "")
    message = str(failure("acme-metrics"))
    assert "install the distribution that provides it" in message
    assert "pip" not in message
    assert "did you mean 'acme-auth'?" in str(failure("acme-aut"))
    assert "did you mean 'msgpack'?" in str(failure("msgpakc"))


def test_a_plugin_listed_twice(site: FakeSite) -> None:
    site.plugin("one", REGISTERS.format(name="one"))
    assert "it is listed twice" in str(failure("one", "one"))


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_plugin_can_be_switched_off(site: FakeSite, by: str) -> None:
    module = site.plugin("bomb", "raise RuntimeError")
    site.plugin("fine", REGISTERS.format(name="fine"))
    if by == "argument":
        loaded = load_plugins(["bomb", "fine"], without=["bomb"], environ={})
    else:
        loaded = load_plugins(["bomb", "fine"], environ={"ECHOKERNEL_WITHOUT": "x, Bomb"})
    assert loaded.start_line() == "plugins: fine 0.1.0; skipped: bomb (switched off)"
    assert module not in sys.modules


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", ["RuntimeError('boom')", "BaseException('boom')"])
def test_a_failing_import_has_an_owner_a_reason_and_a_remedy(site: FakeSite, raised: str) -> None:
    site.plugin("bomb", f"raise {raised}")
    error = failure("bomb")
    kind = raised.partition("(")[0]
    assert str(error) == (
        f"plugin 'bomb' (echokernel-bomb 0.1.0): it cannot be imported: {kind}: boom; "
        "upgrade or remove it: pip install --upgrade echokernel-bomb, pip uninstall echokernel-bomb"
    )
    assert (error.plugin, error.distribution, error.version) == ("bomb", "echokernel-bomb", "0.1.0")
    assert type(error.__cause__).__name__ == kind


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_import_may_be_interrupted(site: FakeSite, raised: type[BaseException]) -> None:
    site.plugin("slow", f"raise {raised.__name__}")
    with pytest.raises(raised):
        load_plugins(["slow"], environ={})


def test_a_missing_module_and_a_missing_attribute(site: FakeSite) -> None:
    site.distribution("a", entries={"nowhere": "no_such_module", "nothing": "json:no_such_name", "garbage": "1 2 3"})
    assert "it cannot be imported: ModuleNotFoundError: No module named 'no_such_module'" in str(failure("nowhere"))
    assert "it cannot be imported: AttributeError" in str(failure("nothing"))
    assert "it cannot be imported: " in str(failure("garbage"))


def test_a_misspelt_hook_is_an_error(site: FakeSite) -> None:
    site.plugin("typo", HOOK + "@hookimpl\ndef echokernel_transport(registry): ...")
    assert (
        "it implements the hook 'echokernel_transport', which does not exist; did you mean 'echokernel_transports'?"
        in (str(failure("typo")))
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1", "it implements no hook: mark its functions with echokernel.hookimpl"),
        ("def echokernel_discovery(registry): ...", "its echokernel_discovery is not marked as a hook"),
        (
            "@hookimpl\ndef echokernel_discovery(registry, config): ...",
            "Argument(s) {'config'} are declared in the hookimpl",
        ),
        ("@hookimpl\ndef echokernel_discovery(registry=None): ...", "has a parameter with a default"),
        ("@hookimpl(wrapper=True)\ndef echokernel_discovery(registry):\n    return (yield)", "is a wrapper"),
        ("@hookimpl\nasync def echokernel_discovery(registry): ...", "is async, and nobody would await it"),
        ("@hookimpl\nasync def echokernel_discovery(registry):\n    yield", "is async, and nobody would await it"),
        ("@hookimpl\ndef echokernel_discovery(registry):\n    return 1", "returned a int; hooks register objects"),
        ("@hookimpl\ndef echokernel_discovery(registry):\n    yield", "returned a generator; hooks register objects"),
        ("@hookimpl\ndef echokernel_discovery(registry):\n    1 / 0", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_hook_is_an_error(site: FakeSite, source: str, reason: str) -> None:
    site.plugin("wrong", HOOK + source)
    assert reason in str(failure("wrong"))


def test_a_failed_plugin_leaves_nothing_behind(site: FakeSite, caplog: pytest.LogCaptureFixture) -> None:
    half = REGISTERS.format(name="half") + "@hookimpl\ndef echokernel_services(registry):\n    raise OSError('no')\n"
    site.plugin("half", half)
    site.plugin("whole", REGISTERS.format(name="half"))  # takes the name that must be free again
    with caplog.at_level(logging.WARNING, "echokernel.loader"):
        loaded = load_plugins(["half", "whole"], on_error={"half": "skip"}, environ={})
    assert loaded.registry.discoveries["half"].plugin == "whole"
    assert loaded.start_line() == "plugins: whole 0.1.0; skipped: half (failed)"
    assert (
        "skipped plugin 'half' (echokernel-half 0.1.0): its hook echokernel_services failed: OSError: no" in caplog.text
    )


def test_two_plugins_that_register_one_name(site: FakeSite) -> None:
    site.plugin("a", SERIALIZER.format(name="json"))
    site.plugin("b", SERIALIZER.format(name="json"))
    assert "serializer 'json' is registered by plugin 'a' already; 'b' cannot take it" in str(failure("a", "b"))


# --- plugins passed in code -----------------------------------------------------------------------------------------


class Shout:
    name = "shout"

    @hookimpl
    def echokernel_discovery(self, registry: Registry) -> None:
        registry.discovery("shout", object)  # type: ignore[arg-type]


def test_objects_and_modules_are_plugins_as_well(site: FakeSite) -> None:
    module = types.ModuleType("acme")
    exec(REGISTERS.format(name="acme"), vars(module))
    module.__version__ = "7"  # type: ignore[attr-defined]
    loaded = load_plugins([Shout(), module], environ={})
    assert loaded.start_line() == "plugins: shout, acme 7"
    assert loaded.registry.discoveries["acme"].plugin == "acme"
    assert "it is listed twice" in str(failure(Shout(), Shout()))


def test_a_wrong_object_says_that_it_came_from_code(site: FakeSite) -> None:
    assert str(failure(object())) == (
        "plugin 'object': it implements no hook: mark its functions with echokernel.hookimpl; "
        "it was passed in code: correct it there"
    )


# --- a library node without a configuration -------------------------------------------------------------------------


def test_a_library_node_has_its_transport_and_the_installed_serializers(bare_site: FakeSite) -> None:
    bare_site.plugin("fake", EVERYTHING.replace("plainer", "x"))
    bare_site.plugin("msgpack", SERIALIZER.format(name="msgpack"))
    bomb = bare_site.plugin("bomb", "raise RuntimeError")
    registry = load_for_library("fake", environ={})
    assert "fake" in registry.transports
    assert set(registry.serializers) == {"plain", "x", "msgpack"}
    assert bomb not in sys.modules
    assert load_for_library("fake", environ={}) is registry


def test_a_missing_transport_names_the_command(bare_site: FakeSite) -> None:
    with pytest.raises(PluginError, match=r"called .quic.; install it: pip install .echokernel\[quic\]."):
        load_for_library("quic", environ={})


def test_a_plugin_of_the_right_name_without_that_transport(bare_site: FakeSite) -> None:
    bare_site.plugin("tcp", REGISTERS.format(name="x"))
    with pytest.raises(PluginError, match="no transport for tcp:// addresses; plugin 'tcp': it registers no transport"):
        load_for_library("tcp", environ={})


def test_no_serializer_names_the_command(bare_site: FakeSite) -> None:
    with pytest.raises(
        PluginError, match=r"no serializer is installed; install one: pip install .echokernel\[msgpack\]."
    ):
        load_for_library(None, environ={})
    assert not load_for_library(None, need_serializer=False, environ={}).serializers


def test_a_serializer_that_is_switched_off(bare_site: FakeSite) -> None:
    bare_site.plugin("msgpack", SERIALIZER.format(name="msgpack"))
    off = {"ECHOKERNEL_WITHOUT": "msgpack"}
    with pytest.raises(
        PluginError, match=r"is installed \(msgpack: it is switched off by ECHOKERNEL_WITHOUT\); install"
    ):
        load_for_library(None, [Shout()], environ=off)


def test_a_transport_is_made_from_settings(bare_site: FakeSite) -> None:
    bare_site.plugin("fake", EVERYTHING)
    registry = load_for_library("fake", environ={})
    transport = make_transport(registry, "fake", listening=False, settings={"fingerprint": "abc"})
    assert transport.settings.fingerprint == "abc"  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="no plugin registers the transport 'quic'; there are: fake"):
        make_transport(registry, "quic", listening=True)
    with pytest.raises(InvalidArgument) as caught:
        make_transport(registry, "fake", listening=False, settings={"fingerprnt": "abc", "insecure": "maybe"})
    assert str(caught.value).splitlines() == [
        "fingerprnt is not a setting of transport 'fake'; did you mean 'fingerprint'?",
        "insecure: Input should be a valid boolean, unable to interpret input",
    ]
