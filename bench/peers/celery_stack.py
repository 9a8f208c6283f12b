"""What a team would write first: FastAPI, SQLAlchemy's ORM, Celery's prefork workers on the Redis protocol, requests.

Its workers: `celery -A bench.peers.celery_stack:queue worker`.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import requests
from celery import Celery
from fastapi import FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import DateTime, create_engine, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bench.peers import signed
from bench.peers.surroundings import BROKER_URL, DATABASE_URL, submission

queue = Celery("jobs", broker=BROKER_URL)
# A task that was taken by a worker that died is done again by another one.
queue.conf.update(task_acks_late=True, task_ignore_result=True)

engine = create_async_engine(DATABASE_URL.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=16)
sessions = async_sessionmaker(engine, expire_on_commit=False)
workers_engine = create_engine(DATABASE_URL.replace("postgresql://", "postgresql+psycopg2://", 1), pool_size=2)


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "requests"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    model: Mapped[str]
    input: Mapped[dict[str, Any]] = mapped_column(JSONB)
    state: Mapped[str] = mapped_column(default="queued")
    provider_request_id: Mapped[str | None]
    output: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now())


class JobIn(BaseModel):
    model: str
    input: dict[str, Any]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def register(asked: JobIn) -> dict[str, str]:
    job = Job(model=asked.model, input=asked.input)
    async with sessions.begin() as session:
        session.add(job)
    submit.delay(str(job.id))
    return {"request_id": str(job.id)}


@app.post("/webhooks/{request_id}")
async def hear(request_id: UUID, request: Request) -> None:
    body = await request.body()
    signed.check(request.headers, body)
    async with sessions.begin() as session:
        job = await session.get_one(Job, request_id)
        if job.state != "completed":
            job.state, job.output = "completed", json.loads(body)


@queue.task
def submit(request_id: str) -> None:
    with Session(workers_engine) as session:
        job = session.get_one(Job, UUID(request_id))
        answer = requests.post(submission(job.model, request_id), json=job.input, timeout=30)
        answer.raise_for_status()
        # The webhook may have come meanwhile, so what was read before is not to be relied on.
        session.refresh(job, with_for_update=True)
        job.provider_request_id = answer.json()["request_id"]
        if job.state == "queued":
            job.state = "submitted"
        session.commit()
