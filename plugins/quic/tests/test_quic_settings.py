"""The builder of the seed, and what may stand in a configuration file."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from echokernel.errors import ConfigError
from echokernel.registry import Registry
from echokernel_quic import CongestionControl, QuicConfig, QuicTransport, plugin
from echokernel_quic.settings import ConnectSettings, ListenSettings

PIN = "sha256:" + "A" * 43


def test_the_builder_of_the_seed() -> None:
    config = (
        QuicConfig.builder()
        .with_self_signed_cert()
        .congestion_control(CongestionControl.NewReno)
        .max_concurrent_streams(50)
        .with_fingerprint(PIN)
        .with_ca("ca.pem")
        .build()
    )
    assert (config.certificate, config.max_streams, config.fingerprints, config.ca) == (
        "self-signed",
        50,
        (PIN,),
        "ca.pem",
    )
    assert config.congestion_control is CongestionControl.NewReno
    config = QuicConfig.builder().with_cert_chain("c.pem", "k.pem").skip_cert_verification().build()
    assert (config.certificate, config.key, config.verify) == ("c.pem", "k.pem", False)


def test_the_builder_of_client_certificates() -> None:
    config = QuicConfig.builder().with_client_ca("clients.pem").with_client_pins(PIN).with_client_pins(PIN, PIN).build()
    assert (config.client_ca, config.client_pins) == ("clients.pem", (PIN, PIN, PIN))
    assert QuicTransport(config).authenticates_peers
    assert not QuicTransport().authenticates_peers
    with pytest.raises(ConfigError, match="pins: none given"):
        QuicConfig.builder().with_client_pins().build()
    with pytest.raises(ConfigError, match="pins: 'sha256:short' is not"):
        QuicConfig.builder().with_client_pins("sha256:short").build()
    with pytest.raises(ConfigError, match="key: a key without its certificate"):
        QuicTransport(QuicConfig(certificate="self-signed", key="k.pem"))


def test_early_data_is_off_unless_it_is_asked_for() -> None:
    assert not QuicConfig.builder().build().zero_rtt
    assert QuicConfig.builder().enable_0rtt().build().zero_rtt


def test_mistakes_are_told_all_at_once() -> None:
    builder = QuicConfig.builder().with_client_pins().with_fingerprint("sha256:short")
    with pytest.raises(ConfigError) as caught:
        builder.build()
    lines = caught.value.message.splitlines()
    assert [line.split(":")[0] for line in lines] == ["pins", "fingerprint"]


@pytest.mark.parametrize(
    "values", [{"max_datagram_size": 1100}, {"max_streams": 0}, {"keepalive": 0.1}, {"key": "k.pem"}]
)
def test_impossible_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        QuicTransport(QuicConfig(**values))  # type: ignore[arg-type]


def test_settings_become_the_configuration() -> None:
    config = ListenSettings(certificate="c.pem", key="k.pem", congestion_control="newreno", retry=True).to_config()
    assert config.certificate == "c.pem"
    assert config.retry
    assert config.congestion_control is CongestionControl.NewReno
    assert ListenSettings().to_config() == QuicConfig()
    assert ListenSettings(client_ca="c.pem", pins=[PIN]).to_config() == QuicConfig(
        client_ca="c.pem", client_pins=(PIN,)
    )
    assert ConnectSettings(certificate="self-signed").to_config().certificate == "self-signed"
    assert ConnectSettings(certificate="c.pem", key="k.pem").to_config().key == "k.pem"
    assert ConnectSettings().to_config() == QuicConfig()
    assert ConnectSettings(fingerprint=PIN).to_config().fingerprints == (PIN,)
    assert ConnectSettings(fingerprint=[PIN, PIN]).to_config().fingerprints == (PIN, PIN)
    assert not ConnectSettings(skip_cert_verification=True).to_config().verify


@pytest.mark.parametrize("model", [ListenSettings, ConnectSettings])
def test_every_setting_is_described_and_unknown_ones_are_refused(model: type[ListenSettings]) -> None:
    assert all(field.description for field in model.model_fields.values())
    with pytest.raises(ValidationError, match="no_such_setting"):
        model.model_validate({"no_such_setting": 1})
    with pytest.raises(ValidationError):
        ConnectSettings(fingerprint="sha256:short")
    for pins in ([], ["sha256:short"]):  # an empty list is a mistake, not an open door
        with pytest.raises(ValidationError, match="pins"):
            ListenSettings(pins=pins)


def test_the_plugin_registers_the_scheme() -> None:
    registry = Registry()
    registry.enter("quic")
    plugin.echokernel_transports(registry)
    factory = registry.transports["quic"].value
    assert factory.listen_settings is ListenSettings
    assert factory.connect_settings is ConnectSettings
    assert isinstance(factory.create(ListenSettings()), QuicTransport)
    assert isinstance(factory.create(ConnectSettings()), QuicTransport)


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.path[:] = eval(sys.argv[1]); import echokernel_quic.plugin; "
        "print([name for name in ('aioquic', 'cryptography', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, repr(sys.path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
