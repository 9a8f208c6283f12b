"""Brokers that only some machines have."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import compose
from tests.deployment.brokers import EPMD, RABBITMQ_SERVER, REDIS_SERVER, Broker, RabbitMQ, Redis
from tests.requiring import require


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with a short path that other accounts may pass through, as PostgreSQL must when we are root."""
    folder = Path(tempfile.mkdtemp(prefix="rtd-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def redis(folder: Path) -> Broker:
    require(REDIS_SERVER)
    return Redis(folder, compose.services()["valkey"]["command"][1:], compose.VARIABLES["BROKER_PASSWORD"])


def rabbitmq(folder: Path) -> Broker:
    require(RABBITMQ_SERVER, EPMD)
    told = compose.services()["rabbitmq"]["environment"]
    return RabbitMQ(folder, told["RABBITMQ_DEFAULT_USER"], told["RABBITMQ_DEFAULT_PASS"])


@pytest.fixture(scope="module", params=[redis, rabbitmq], ids=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, place: Path) -> Iterator[Broker]:
    """A broker as compose.yaml sets it up, running; a test that stops it starts it again."""
    folder = place / request.param.__name__
    folder.mkdir()
    broker: Broker = request.param(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()
