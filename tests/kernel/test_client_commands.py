"""What commands of plugins may use to talk to a running node."""

from __future__ import annotations

import argparse

import pytest

from echokernel import EchoClient
from echokernel.cli import client_commands
from echokernel.cli.client_commands import add_client_arguments, with_client


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client_arguments(parser)
    return parser.parse_args(words)


def test_the_arguments_are_those_of_the_kernels_own_commands() -> None:
    found = arguments("host:5", "--fingerprint", "sha256:x", "--set", "keepalive=2")
    assert (found.url, found.fingerprint, found.overrides) == ("host:5", "sha256:x", ["keepalive=2"])
    assert (found.ca, found.insecure, found.serializer, found.verbose) == (None, False, None, False)
    assert set(client_commands.__all__) == {"add_client_arguments", "with_client"}


def test_what_is_no_address_is_wrong_usage_and_connects_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    async def use(client: EchoClient) -> int:
        raise AssertionError("there is nobody to talk to")

    assert with_client(arguments("quic://"), use) == 2
    assert "wanted quic://HOST:PORT" in capsys.readouterr().err
