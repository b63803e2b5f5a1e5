"""Every private name of aioquic that we touch: a release that moves one fails here by name, not in the field."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from typing import Any

import aioquic
import pytest
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion import base as congestion
from aioquic.quic.connection import Limit, QuicConnection, QuicConnectionId, QuicNetworkPath
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery, QuicPacketSpace
from aioquic.quic.stream import QuicStream
from quic_helpers import Wire

from echokernel_quic.bbr import Bbr
from echokernel_quic.config import QuicConfig
from echokernel_quic.factory import make_engine
from echokernel_quic.identity import self_signed_identity
from echokernel_quic.trust import TrustPolicy

OVERRIDDEN = {
    "_confirm_handshake": [],
    "_connect": ["now"],
    "_handle_crypto_frame": ["context", "frame_type", "buf"],
    "_handle_padding_frame": ["context", "frame_type", "buf"],
    "_handle_ping_frame": ["context", "frame_type", "buf"],
    "_handle_stream_frame": ["context", "frame_type", "buf"],
    "_initialize": ["peer_cid"],
    "_payload_received": ["context", "plain", "crypto_frame_required"],
    "_replenish_connection_ids": [],
    "_write_ack_frame": ["builder", "space", "now"],
    "_write_application": ["builder", "network_path", "now"],
    "_write_connection_limits": ["builder", "space"],
    "_write_stream_limits": ["builder", "space", "stream"],
}
CALLED = {
    "_flush_builder": ["builder", "network_path", "peer_cid", "now"],
    "_get_or_create_stream_for_send": ["stream_id"],
    "_on_connection_limit_delivery": ["delivery", "limit"],
    "_on_max_stream_data_delivery": ["delivery", "stream"],
    "_send_probe": [],
    "_stream_limit": ["stream_id"],
    "_write_connection_close_frame": ["builder", "epoch", "error_code", "frame_type", "reason_phrase"],
    "_write_crypto_frame": ["builder", "space", "stream"],
    "_write_datagram_frame": ["builder", "data", "frame_type"],
    "_write_handshake_done_frame": ["builder"],
    "_write_new_connection_id_frame": ["builder", "connection_id"],
    "_write_path_challenge_frame": ["builder", "network_path"],
    "_write_path_response_frame": ["builder", "challenge"],
    "_write_ping_frame": ["builder", "uids", "comment"],
    "_write_reset_stream_frame": ["builder", "stream"],
    "_write_retire_connection_id_frame": ["builder", "sequence_number"],
    "_write_stop_sending_frame": ["builder", "stream"],
    "_write_stream_frame": ["builder", "space", "stream", "max_offset"],
}
# Bodies that we replaced or whose side effects we rely on. When one changes, read the change, adapt, and renew the sum.
BODIES = {
    "_write_application": "c37bf64378f72b2f",
    "_write_connection_limits": "02c42c5455ae1a31",
    "_write_stream_limits": "398d4a898f7c580f",
    "_initialize": "6a41681e541c05d7",
    "_connect": "5cabbbe581ae9eb0",
    "_handle_crypto_frame": "e77f8695d9acaf8e",
    "_handle_session_ticket": "114d7a5738a95475",
    "_receive_retry_packet": "4064f8da7e029ed7",
    "datagrams_to_send": "f4eb22c8add260fe",
    "_get_or_create_stream": "aee09c84cd0da114",
}
TLS_BODIES = {  # who is let in depends on what these do before and after our checks
    "_build_session_ticket": "cf78d2d167075a53",
    "_client_send_hello": "8d01ef343e2125ac",
    "_server_handle_hello": "ce53cc7baafe259b",
    "_server_handle_finished": "6333c1d300ad9c6a",
    "_client_handle_certificate_verify": "9e49d3f18f0be6f2",
    "_server_handle_certificate": "8300245453e1b8ee",
    "_server_handle_certificate_verify": "54a8dfacdbb96066",
}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def require(owner: object, *names: str) -> None:
    missing = [name for name in names if not hasattr(owner, name)]
    assert not missing, f"aioquic {aioquic.__version__}: {type(owner).__name__} has lost {', '.join(missing)}"


@pytest.mark.parametrize(("name", "wanted"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_methods_have_the_parameters_that_we_know(name: str, wanted: list[str]) -> None:
    assert parameters(getattr(QuicConnection, name)) == wanted


@pytest.mark.parametrize(("name", "known"), BODIES.items())
def test_bodies_are_those_that_we_read(name: str, known: str) -> None:
    source = inspect.getsource(getattr(QuicConnection, name))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == known, f"{name} changed in aioquic {aioquic.__version__}"


def test_connection_attributes() -> None:
    engine = make_engine(QuicConfig(), policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
    require(
        engine,
        "_ack_delay",
        "_close_at",
        "_close_event",
        "_configuration",
        "_crypto_buffers",
        "_crypto_streams",
        "_cryptos",
        "_datagrams_pending",
        "_handshake_complete",
        "_handshake_confirmed",
        "_handshake_done_pending",
        "_host_cids",
        "_is_client",
        "_local_max_data",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_loss",
        "_max_datagram_size",
        "_network_paths",
        "_pacing_at",
        "_packet_number",
        "_peer_cid",
        "_peer_cid_available",
        "_ping_pending",
        "_probe_pending",
        "_remote_max_data",
        "_remote_max_data_used",
        "_remote_max_datagram_frame_size",
        "_remote_max_streams_bidi",
        "_remote_max_streams_uni",
        "_retire_connection_ids",
        "_spaces",
        "_spin_bit",
        "_state",
        "_streams",
        "_streams_queue",
        "_version",
        "host_cid",
    )
    require(Limit(1, "x", 1), "frame_type", "sent", "used", "value")
    require(QuicConnectionId(b"", 0), "cid", "stateless_reset_token", "was_sent")
    require(QuicNetworkPath(("::1", 1)), "addr", "bytes_sent", "is_validated", "local_challenge_sent")
    require(QuicNetworkPath(("::1", 1)), "remote_challenges", "validation_deadline")
    require(engine, "_logger")
    require(
        engine._loss,
        "_cc",
        "_logger",
        "_pacer",
        "_pto_count",
        "_rtt_smoothed",
        "bytes_in_flight",
        "congestion_window",
        "get_probe_timeout",
    )
    assert parameters(engine._loss._on_packets_lost) == [
        "congestion_event",
        "now",
        "packets",
        "persistent_congestion",
        "space",
    ]
    require(QuicPacketSpace(), "sent_packets")
    assert {"packet_type", "packet_number"} <= set(QuicSentPacket.__dataclass_fields__)
    require(engine._loss._cc, "_max_datagram_size", "congestion_window", "bytes_in_flight")


def test_frame_handlers_are_bound_to_the_subclass() -> None:
    engine = make_engine(QuicConfig(), policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
    handlers = engine._QuicConnection__frame_handlers  # type: ignore[attr-defined]
    assert handlers[0x01][0] == engine._handle_ping_frame
    assert handlers[0x08][0] == engine._handle_stream_frame


def test_stream_attributes() -> None:
    stream = QuicStream(stream_id=0)
    require(stream, "is_blocked", "is_finished", "max_stream_data_local", "max_stream_data_local_sent")
    require(stream, "max_stream_data_remote", "receiver", "sender", "stream_id")
    require(
        stream.sender,
        "_pending",
        "_pending_eof",
        "_buffer",
        "_buffer_fin",
        "_reset_error_code",
        "buffer_is_empty",
        "highest_offset",
    )
    require(stream.sender, "is_finished", "reset_pending", "reset", "write")
    require(stream.receiver, "_final_size", "_stop_error_code", "highest_offset", "is_finished", "stop", "stop_pending")
    stream.sender.write(b"abc")
    assert stream.sender._buffer == bytearray(b"abc")
    assert not stream.sender.buffer_is_empty
    stream.sender.write(b"", end_stream=True)
    assert stream.sender._buffer_fin == 3


def test_packet_builder_pacer_and_crypto() -> None:
    wanted = [
        "host_cid",
        "peer_cid",
        "version",
        "is_client",
        "max_datagram_size",
        "packet_number",
        "peer_token",
        "quic_logger",
        "spin_bit",
    ]
    assert parameters(QuicPacketBuilder.__init__) == wanted
    assert parameters(QuicPacketBuilder.start_frame) == ["frame_type", "capacity", "handler", "handler_args"]
    pacer = QuicPacketPacer(max_datagram_size=1200)
    require(
        pacer, "_max_datagram_size", "bucket_max", "next_send_time", "packet_time", "update_after_send", "update_rate"
    )
    assert pacer.next_send_time(1.0) is None  # no rate, no pacing: how it is switched off on loopback
    assert parameters(QuicPacketPacer.update_rate) == ["congestion_window", "smoothed_rtt"]
    require(pacer, "evaluation_time")
    assert parameters(QuicPacketPacer.next_send_time) == parameters(QuicPacketPacer.update_after_send) == ["now"]
    require(CryptoPair(), "decrypt_packet", "recv", "send")
    require(QuicPacketRecovery, "get_probe_timeout")


def test_congestion_control() -> None:
    """The hooks that BBR has, when the recovery calls them, and that "bbr" is no name of aioquic's."""
    assert congestion.QuicCongestionControl.__abstractmethods__ == {
        "on_packet_acked",
        "on_packet_sent",
        "on_packets_expired",
        "on_packets_lost",
        "on_persistent_congestion",
        "on_rtt_measurement",
    }
    for name in congestion.QuicCongestionControl.__abstractmethods__:
        assert parameters(getattr(Bbr, name)) == parameters(getattr(congestion.QuicCongestionControl, name))
    assert parameters(congestion.register_congestion_control) == ["name", "factory"]
    assert congestion._factories.keys() == {"bbr", "cubic", "reno"}
    assert congestion._factories["bbr"] is Bbr
    names = [field.name for field in dataclasses.fields(QuicSentPacket)]
    assert [name for name in ("packet_number", "sent_time", "sent_bytes") if name not in names] == []
    source = inspect.getsource(QuicPacketRecovery.on_ack_received)
    order = ["_cc.on_packet_acked(", "_cc.on_rtt_measurement(", "_pacer.update_rate(", "_detect_loss("]
    assert sorted(order, key=source.index) == order


def test_tls_context() -> None:
    context = tls.Context(is_client=True)
    require(context, "_ec_private_keys", "_x25519_private_key", "_x448_private_key")
    require(context, "_alpn_protocols", "_max_early_data", "_new_session_ticket", "_peer_certificate")
    require(
        context, "_peer_certificate_chain", "alpn_cb", "certificate", "certificate_chain", "certificate_private_key"
    )
    require(context, "get_session_ticket_cb", "handshake_extensions", "new_session_ticket_cb", "update_traffic_key_cb")
    assert parameters(tls.Context._client_handle_certificate_verify) == ["input_buf"]
    require(context, "_certificate_request", "_request_client_certificate", "early_data_accepted", "session_resumed")
    require(context, "session_ticket")
    for name, known in TLS_BODIES.items():
        source = inspect.getsource(getattr(tls.Context, name))
        assert hashlib.sha256(source.encode()).hexdigest()[:16] == known, (
            f"{name} changed in aioquic {aioquic.__version__}"
        )
    assert parameters(tls.Context._server_handle_hello) == ["input_buf", "initial_buf", "handshake_buf"]
    wanted = ["certificate", "chain", "server_name", "cadata", "cafile", "capath"]
    assert parameters(tls.verify_certificate) == wanted
    source = inspect.getsource(QuicConnection._initialize)
    assigned = {
        line.split("=")[0].strip().removeprefix("self.tls.") for line in source.splitlines() if "self.tls." in line
    }
    # whatever aioquic sets on its context, trust.install() has to carry over
    known = {"certificate", "certificate_chain", "certificate_private_key", "handshake_extensions", "alpn_cb"}
    assert assigned == known | {
        "update_traffic_key_cb",
        "session_ticket",
        "get_session_ticket_cb",
        "new_session_ticket_cb",
    }


def test_spaces_after_the_handshake() -> None:
    wire = Wire()
    wire.handshake()
    assert wire.server is not None
    space = wire.server._spaces[tls.Epoch.ONE_RTT]
    require(space, "ack_at", "expected_packet_number", "is_application_data", "largest_received_packet")
    assert space.is_application_data
    assert wire.client._peer_cid.stateless_reset_token == wire.server._host_cids[0].stateless_reset_token


def test_the_configuration_is_not_shared_between_connections() -> None:
    identity = self_signed_identity()
    engines = [
        make_engine(
            QuicConfig(), identity=identity, reset_key=b"k", loopback=True, original_destination_connection_id=bytes(8)
        )
        for _ in range(2)
    ]
    assert engines[0]._configuration is not engines[1]._configuration
    assert isinstance(engines[0]._configuration, QuicConfiguration)
