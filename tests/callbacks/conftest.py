"""A context whose callbacks may go to the loopback, where the receivers of these tests are."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from service.callbacks.delivering import Deliverer
from service.callbacks.keys import SigningKeys
from service.context import Context
from service.network import AddressGuard, open_http
from tests.callbacks.receiver import Receiver, receiving


@pytest.fixture
async def callbacks() -> AsyncIterator[httpx.AsyncClient]:
    async with open_http(guard=AddressGuard(allow_private=True)) as http:
        yield http


@pytest.fixture
def calling(context: Context, callbacks: httpx.AsyncClient) -> Context:
    return replace(context, callbacks=callbacks, callback_keys=SigningKeys())


@pytest.fixture
def deliverer(calling: Context) -> Deliverer:
    return Deliverer(calling)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver
