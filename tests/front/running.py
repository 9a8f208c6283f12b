"""fal's own clients as their users run them: in processes of their own, against a whole installation."""

import asyncio
import datetime
import ipaddress
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.journeys.running import QUICK, ROOT, Service, free_port
from tests.requiring import require

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
OURS = ("ROUNDTRIP_", "FAL_")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}


def require_node() -> None:
    require("node", MODULES / "@fal-ai" / "client")


def node(script: str | Path, seconds: float = 90, **environment: str) -> Any:
    """Run a module, a file of `javascript/` or a text; what it printed last, read as JSON."""
    require_node()
    command = ["node", str(script)] if isinstance(script, Path) else ["node", "--input-type=module", "-e", script]
    return last_line(command, seconds, environment, cwd=HERE)


def last_line(command: list[str], seconds: float, environment: dict[str, str], cwd: Path = ROOT) -> Any:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


class WithSandbox(Service):
    """An installation as it is without a FAL_KEY: its provider is the sandbox."""

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT), "ROUNDTRIP_ADMIN_KEY": self.admin_key}
        return clean_environment() | own | QUICK | dict(self.settings)


@contextmanager
def encrypted(port: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """HTTPS in front of a port of this machine, as a reverse proxy does it: the address, and whom to trust."""
    certificate, key = folder / "localhost.pem", folder / "localhost.key"
    make_certificate(certificate, key)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    outside = free_port()
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        target.close()

    async def serve() -> None:
        server = await asyncio.start_server(carry, "127.0.0.1", outside, ssl=tls)
        ready.set()
        async with server:
            with suppress(asyncio.CancelledError):
                await server.serve_forever()

    serving = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_until_complete, args=(serving,), name="tls", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"https://localhost:{outside}", certificate
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(10)


def make_certificate(certificate: Path, key: Path) -> None:
    """For localhost, signed by itself."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
