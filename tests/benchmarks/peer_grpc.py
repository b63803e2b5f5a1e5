"""grpc.aio over TLS as a benchmark peer, with the same words as the echokernel one. Payloads are bytes: no protobuf."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

PAYLOAD = bytes(32)


def certificate() -> tuple[bytes, bytes]:
    """Return a fresh key and self-signed certificate for 127.0.0.1, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmark")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    cert = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, cert.public_bytes(pem)


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def count(requests: AsyncIterator[bytes], context: Any) -> bytes:
    total = 0
    async for _ in requests:
        total += 1
    return str(total).encode()


async def serve() -> None:
    key, cert = certificate()
    server = grpc.aio.server()
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.stream_unary_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bench", handlers),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    await server.start()
    path = Path(sys.argv[2])
    path.write_bytes(cert)
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def run(mode: str, address: str, seconds: float, cert: bytes) -> dict[str, Any]:
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(cert)) as channel:
        call = channel.unary_unary("/bench.Bench/Echo")
        await call(PAYLOAD)
        clock = time.perf_counter
        began = clock()
        end = began + seconds
        if mode == "events":
            stream = channel.stream_unary("/bench.Bench/Count")()
            while clock() < end:
                for _ in range(20):
                    await stream.write(PAYLOAD)
            await stream.done_writing()
            return {"per_s": int(await stream) / (clock() - began)}
        times: list[float] = []

        async def work() -> None:
            while (start := clock()) < end:
                await call(PAYLOAD)
                times.append(clock() - start)

        await asyncio.gather(*(work() for _ in range(1 if mode == "sequential" else 64)))
        took = clock() - began
        times.sort()
        return {
            "per_s": len(times) / took,
            "p50_us": times[len(times) // 2] * 1e6,
            "p99_us": times[len(times) * 99 // 100] * 1e6,
        }


def main() -> None:
    import uvloop

    if sys.argv[1] == "serve":
        uvloop.run(serve())
    else:
        cert = Path(sys.argv[4]).read_bytes()
        print(json.dumps(uvloop.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3]), cert))), flush=True)


if __name__ == "__main__":
    main()
