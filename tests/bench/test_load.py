"""The loader fills a database as the service would have, and the questions can be asked of it."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import FILLED
from bench.questions import QUESTIONS
from bench.stand_in import CHECKOUT
from service.db import one_connection
from service.local.servers import embedded_database
from service.migrate import upgrade


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        Path(name).chmod(0o711)  # PostgreSQL may run as another account.
        done = run("bench.load", "--jobs=400", "--live=20", f"--data={name}/full")
        assert done.returncode == 0, done.stderr
        yield Path(name, "full")


def run(module: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", module, *options]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=110)


async def schema_of(database_url: str) -> set[tuple[str, str]]:
    async with one_connection(database_url) as connection:
        rows = await connection.fetch(
            "SELECT indexname AS name, indexdef AS definition FROM pg_indexes WHERE schemaname = 'public'"
            " UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE convalidated"
        )
    return {(row["name"], row["definition"]) for row in rows}


async def test_a_load_fills_the_tables_and_leaves_the_schema_as_it_was(data: Path) -> None:
    with embedded_database(data.with_name("empty")) as url:
        await asyncio.to_thread(upgrade, url)
        schema = await schema_of(url)
    with embedded_database(data) as url:
        assert await schema_of(url) == schema
        async with one_connection(url) as connection:
            for table in FILLED:
                assert await connection.fetchval(f"SELECT count(*) FROM {table}"), table
            assert await connection.fetchval("SELECT count(*) FROM jobs") == 400
            one_of_both = (
                "(SELECT count(*) FROM outcomes WHERE job_id = id) + (SELECT count(*) FROM live_jobs WHERE job_id = id)"
            )
            assert await connection.fetchval(f"SELECT count(*) FROM jobs WHERE {one_of_both} <> 1") == 0
            # What a table refers to is there, though no trigger saw to it.
            for table in ("attempts", "outcomes", "results", "reports", "artifacts", "callbacks", "job_events"):
                lost = f"SELECT count(*) FROM {table} WHERE NOT EXISTS (SELECT FROM jobs WHERE id = {table}.job_id)"
                assert await connection.fetchval(lost) == 0, table


def test_a_database_with_jobs_is_left_alone(data: Path) -> None:
    again = run("bench.load", "--jobs=400", f"--data={data}")
    assert (again.returncode, again.stderr.splitlines()[-1]) == (
        1,
        "bench: there are jobs in this database; take an empty one",
    )


def test_every_question_is_answered(data: Path) -> None:
    done = run("bench.questions", "--times=1", f"--data={data}")
    assert done.returncode == 0, done.stderr
    assert all(f"| `{question}` |" in done.stdout for question in QUESTIONS)
