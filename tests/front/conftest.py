"""Two whole installations for fal's clients: before a stand-in that is told what to do, and before the sandbox."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.front.running import WithSandbox, encrypted
from tests.journeys.running import Service, free_port, installation
from tests.stand_in import StandIn


@pytest.fixture(scope="session")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture(scope="session")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, ROUNDTRIP_CORS_ORIGINS="*") as service:
        service.start()
        yield service


@pytest.fixture(scope="session")
def sandboxed(fal: StandIn) -> Iterator[WithSandbox]:
    """Reached over HTTPS: its `public_url`, and whom to trust, are in its settings."""
    folder = Path(tempfile.mkdtemp(prefix="rt-"))
    folder.chmod(0o755)
    port = free_port()
    with encrypted(port, folder) as (url, certificate):
        settings = {"ROUNDTRIP_PUBLIC_URL": url, "SSL_CERT_FILE": str(certificate)}
        service = WithSandbox(fal, folder / "data", settings, port)
        try:
            service.start()
            yield service
        finally:
            service.close()
            shutil.rmtree(folder, ignore_errors=True)
