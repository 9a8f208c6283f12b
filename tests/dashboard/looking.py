"""People at the dashboard: signed in with a key, as a browser does it."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from service.sessions import form_token

COOKIE = "roundtrip"
HTML = "text/html,application/xhtml+xml"


def key_of(client: httpx.AsyncClient) -> str:
    """`id:secret` of a client that was made for a tenant."""
    return client.headers["authorization"].removeprefix("Key ")


def id_of(client: httpx.AsyncClient) -> str:
    return key_of(client).partition(":")[0]


@asynccontextmanager
async def browser(api: str) -> AsyncGenerator[httpx.AsyncClient]:
    """It keeps cookies, and says where its forms come from."""
    headers = {"origin": api, "accept": HTML}
    async with httpx.AsyncClient(base_url=api, headers=headers, trust_env=False, timeout=30) as client:
        yield client


async def sign_in(client: httpx.AsyncClient, key: str, **fields: str) -> httpx.Response:
    return await client.post("/dashboard/sign-in", data={"key": key, **fields})


@asynccontextmanager
async def signed_in(api: str, key: str) -> AsyncGenerator[httpx.AsyncClient]:
    async with browser(api) as client:
        answer = await sign_in(client, key)
        assert answer.status_code == 303, answer.text
        yield client


def token_of(client: httpx.AsyncClient) -> str:
    token = client.cookies.get(COOKIE)
    assert token is not None
    return token


def csrf_of(client: httpx.AsyncClient) -> str:
    """What the pages of this session put into their forms."""
    return form_token(token_of(client))


def attributes_of(answer: httpx.Response) -> dict[str, str]:
    """Of the one cookie that was set, its attributes in lower case."""
    [cookie] = answer.headers.get_list("set-cookie")
    _, *rest = re.split(r";\s*", cookie)
    return {name.lower(): value for name, _, value in (each.partition("=") for each in rest)}
