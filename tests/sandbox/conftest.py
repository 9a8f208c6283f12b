"""One sandbox and one receiver for the whole folder; a hook of its own for every test."""

import uuid
from collections.abc import Iterator

import pytest

from tests.sandbox.pictures import data_uri, encoded, shapes
from tests.sandbox.receiver import Hook, Receiver
from tests.sandbox.running import Sandbox, running_sandbox, serving


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(concurrency=8, max_file_bytes=64 * 2**20) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.app):
        yield receiver


@pytest.fixture
def hook(receiver: Receiver) -> Hook:
    return receiver.hook(uuid.uuid4().hex)


@pytest.fixture
def other_hook(receiver: Receiver) -> Hook:
    return receiver.hook(uuid.uuid4().hex)


@pytest.fixture(scope="session")
def shapes_url() -> str:
    return data_uri(encoded(shapes()))
