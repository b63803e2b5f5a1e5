"""Every serializer that is installed gives the same values for the same types: the suite of ``echokernel.testing``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from echokernel import Codec, SerializationError, Serializer
from echokernel.registry import Registry
from echokernel.testing import JsonSerializer
from echokernel.testing.conformance import (
    CASES,
    Case,
    check_any,
    check_case,
    check_garbage,
    check_inexpressible,
    check_serializer,
)

SELF_DESCRIBING = {"msgpack": True, "postcard": False}
WITHOUT = {"msgpack": {"u128 beyond 64 bits"}, "postcard": set()}
"""Cases that a format cannot do: integers of MessagePack have 64 bits."""
INSTALLED = [name for name in SELF_DESCRIBING if importlib.util.find_spec(f"echokernel_{name}") is not None]
STRICT_JSON = {"bool", "str", "bytes", "int", "int enum", "literal", "decimal", "float", "f32"}


def serializer(name: str) -> Serializer:
    registry = Registry()
    registry.enter(name)
    importlib.import_module(f"echokernel_{name}.plugin").echokernel_serializers(registry)
    found = registry.serializers[name].value
    assert isinstance(found, Serializer)
    return found


SERIALIZERS = {name: serializer(name) for name in INSTALLED}
RUNS = [(name, case) for name in INSTALLED for case in CASES if case.name not in WITHOUT[name]]


@pytest.mark.parametrize(("name", "case"), RUNS, ids=[f"{name}: {case.name}" for name, case in RUNS])
def test_a_serializer_does_what_every_one_does(name: str, case: Case) -> None:
    check_case(SERIALIZERS[name], case)


@pytest.mark.parametrize("name", INSTALLED)
def test_values_without_a_type_garbage_and_types_without_a_form(name: str) -> None:
    check_any(SERIALIZERS[name], self_describing=SELF_DESCRIBING[name])
    check_garbage(SERIALIZERS[name])
    check_inexpressible(SERIALIZERS[name])


@pytest.mark.parametrize("name", INSTALLED)
def test_the_suite_in_one_call(name: str) -> None:
    check_serializer(SERIALIZERS[name], self_describing=SELF_DESCRIBING[name], without=WITHOUT[name])


@pytest.mark.skipif(len(INSTALLED) < 2, reason="there is nothing to compare")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_give_the_same_values(case: Case) -> None:
    for value in case.values:
        results = []
        for name in INSTALLED:
            if case.name not in WITHOUT[name]:
                results.append(
                    spelled(SERIALIZERS[name].deserialize(SERIALIZERS[name].serialize(value, case.type), case.type))
                )
        assert len(set(results)) == 1


def spelled(value: Any) -> str:
    """Like repr(), which tells 1, 1.0 and True apart and equal NaNs not; but equal sets are spelled alike: repr() shows
    the order in which their members came whenever two of them share a slot, which the seed of the hashes decides.
    """
    name = type(value).__qualname__
    if isinstance(value, set | frozenset):
        return f"{name}({sorted(map(spelled, value))})"
    if isinstance(value, Mapping):
        return f"{name}({[(spelled(key), spelled(item)) for key, item in value.items()]})"
    if isinstance(value, list | tuple):
        return f"{name}({[spelled(item) for item in value]})"
    if isinstance(value, BaseModel):
        return f"{name}({[(key, spelled(item)) for key, item in value]})"
    if is_dataclass(value):
        return f"{name}({[(field.name, spelled(getattr(value, field.name))) for field in fields(value)]})"
    return f"{name}({value!r})"


def test_sets_are_spelled_alike_whatever_order_their_members_came_in() -> None:
    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert repr(one) != repr(other), "0 and 8 share a slot of a small set"
    assert spelled(one) == spelled(other)
    assert len({spelled([1]), spelled([1.0]), spelled([True]), spelled((1,))}) == 4


@pytest.mark.parametrize("case", [case for case in CASES if case.values], ids=lambda case: case.name)
def test_the_serializer_of_the_tests_gives_back_what_json_can_hold(case: Case) -> None:
    unfit = [value for value in case.values if value == float("inf") or case.name == "bytes"]
    values = tuple(value for value in case.values if value not in unfit)
    check_case(JsonSerializer(), Case(case.name, case.type, values))  # it is lax with what a program gives it


class Careless(Serializer):
    """Does nothing right, so that the suite can be seen to find it."""

    name = "careless"

    def codec(self, type: Any) -> Codec:
        return Codec(encode=lambda value: repr(value).encode(), decode=lambda data: eval(data))  # noqa: S307


def test_the_suite_finds_what_is_wrong() -> None:
    with pytest.raises(AssertionError) as caught:
        check_serializer(Careless(), self_describing=False)
    text = str(caught.value)
    for problem in ("a codec is made once", "any: True was read as True without a type", "garbage: b'' raised"):
        assert problem in text
    with pytest.raises(AssertionError, match="no cases are called"):
        check_serializer(Careless(), self_describing=True, without={"nothing"})
    assert issubclass(SerializationError, Exception)
