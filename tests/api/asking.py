"""What the tests of the doors ask for, and what every error must look like."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
from PIL import Image

from service.artifacts import records
from service.artifacts.filing import file
from service.artifacts.records import Measured, OwedCopy
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.jobs import endings, operations
from tests import making

LLAVA = "fal-ai/llava-next"
JOB = {"model": LLAVA, "input": making.PROMPT}


def asked(**changes: Any) -> dict[str, Any]:
    return {**JOB, **changes}


async def register(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post("/v1/jobs", json=asked(**changes))
    assert response.status_code == 202, response.text
    return dict(response.json())


def is_problem(response: httpx.Response, status: int) -> bool:
    """Every error on every face: this status, and three words about it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"detail", "error_type", "message"}
    assert isinstance(body["message"], str)
    assert response.headers["content-type"] == "application/json"
    return True


def places(response: httpx.Response) -> list[list[str | int]]:
    """Where a 422 in fal's form sees its problems."""
    is_problem(response, 422)
    assert all({"loc", "msg", "type"} <= set(each) for each in response.json()["detail"])
    return [each["loc"] for each in response.json()["detail"]]


def picture(colour: int = 0, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


async def store_copy(context: Context, job_id: UUID, kind: str, index: int, content: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    area = 0.5 if kind == "mask" else None
    async with context.storage.spool(chunks(), 1_000_000) as spooled:
        measured = Measured(spooled.sha256, spooled.size, "image/png", 8, 6, area, (0, 0, 8, 3))
        await file(context.db, context.storage, spooled, measured)
    await records.record_copy(context.db, OwedCopy(job_id, kind, index, "", 1), measured)
    return measured.sha256


async def with_files(context: Context, tenant: UUID) -> UUID:
    """A completed job of two masks and an image: of the second mask there is no copy yet."""
    claim = await making.submitted(context.db, tenant, model="fal-ai/sa2va/8b/image")
    urls = [f"https://example.com/{name}.png" for name in ("mask-0", "mask-1", "image")]
    body = json.dumps({"output": "Two.", "masks": [{"url": url} for url in urls[:2]], "image": {"url": urls[2]}})
    files = (
        LiftedFile("mask", 0, urls[0], label="A truck", file_name="mask-0.png"),
        LiftedFile("mask", 1, urls[1], label=None),
        LiftedFile("image", 0, urls[2], file_name="big.png"),
    )
    lifted = Lifted(text="Two.", files=files, seed=2**53 + 1, usage={"tokens": 3}, timings={"inference": 1.5})
    ending = making.completed(body.encode())
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(ending.body), "webhook", lifted)
    await store_copy(context, claim.job_id, "mask", 0, picture(255))
    await store_copy(context, claim.job_id, "image", 0, picture(1))
    return claim.job_id


async def in_every_status(context: Context, tenant: UUID) -> dict[str, UUID]:
    """One job in each status; made so that none is claimed by the making of another."""
    db = context.db
    jobs = {"completed": await with_files(context, tenant)}
    jobs["failed"] = (await making.ended(db, tenant, making.failed(status=422))).job_id
    jobs["submitted"] = (await making.submitted(db, tenant, "theirs-1")).job_id
    running = await making.submitted(db, tenant)
    await db.execute(
        "UPDATE live_jobs SET status = 'in_progress', started_at = now() WHERE job_id = $1", running.job_id
    )
    jobs["in_progress"] = running.job_id
    jobs["cancelled"] = await making.queued(db, tenant)
    await endings.request_cancel(db, jobs["cancelled"])
    await endings.close(db, jobs["cancelled"], operations.CANCELLED)
    jobs["queued"] = await making.queued(
        db, tenant, tags=["a", "b"], metadata='{"user": {"id": 7}}', deadline_seconds=60.0, priority="low"
    )
    return jobs
