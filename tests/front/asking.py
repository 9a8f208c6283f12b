"""What the tests of the door ask for, and what every error of it must look like."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.settings import Settings
from tests.making import PROMPT
from tests.servers import Wire
from tests.serving import serving

LLAVA = "fal-ai/llava-next"
SA2VA = "fal-ai/sa2va/8b/image"
QUEUE = "/fal/queue"


def of(request_id: object, app: str = LLAVA) -> str:
    return f"{QUEUE}/{app}/requests/{request_id}"


async def submit(client: httpx.AsyncClient, model: str = LLAVA, **changes: Any) -> dict[str, Any]:
    response = await client.post(f"{QUEUE}/{model}", **{"json": PROMPT, **changes})
    assert response.status_code == 200, response.text
    return dict(response.json())


def is_problem(response: httpx.Response, code: int, **more: str) -> bool:
    """This status, a name for the answer, three words about it, and what fal says besides."""
    assert response.status_code == code, response.text
    body = response.json()
    assert {"detail", "error_type", "message"} <= set(body), body
    assert set(body) == {"detail", "error_type", "message", *more}, body
    assert more.items() <= body.items(), body
    assert response.headers["x-fal-request-id"]
    return True


def events(text: str) -> list[Any]:
    """The data of server-sent events; fal sends nothing else in them."""
    lines = [line for line in text.splitlines() if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines), lines
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@asynccontextmanager
async def on_a_wire(settings: Settings, folder: Path, client: httpx.AsyncClient) -> AsyncIterator[tuple[Wire, Any]]:
    """A process whose way to the database can be cut, and a client of it."""
    wire = Wire(settings.require_database_url(), folder)
    await wire.mend()
    async with (
        serving(create_app(settings.model_copy(update={"database_url": wire.database_url}))) as url,
        httpx.AsyncClient(base_url=url, headers=client.headers, trust_env=False, timeout=30) as http,
    ):
        yield wire, http
    await wire.cut()
