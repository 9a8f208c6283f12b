"""How long questions to /v1/stats take, in turns on several records of different size, and how fast jobs are counted.

`python -m bench.figures --data SMALL --data LARGE`, of data directories that `bench.load` has filled: what is not
counted in one is counted first, then each is asked over HTTP as in `bench.questions`. Nothing is asserted, the figures
are printed.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta

import uvloop

from bench import plausible, report
from bench.questions import Query, Record, measure, one, read_options, serving, table, work_table
from bench.workplace import tell
from service.db import open_database
from service.local.directory import DataDirectory
from service.local.servers import supervised
from service.local.stopping import until_stopped
from service.migrate import upgrade
from service.stats.counting import LARGE_BATCH, count_some

EVERY = "count,failure_rate,mean,p50,p75,p90,p95,p99,tokens,cost"


def hours(draw: random.Random, newest: datetime, length: float, *, ragged: bool = False) -> Query:
    """A time of so many hours in the past; ragged: it begins and ends somewhere in an hour."""
    end = newest - timedelta(hours=draw.randrange(1, int(24 * plausible.DAYS * 0.95 - length)))
    end = end.replace(minute=0, second=0, microsecond=0)
    if ragged:
        end += timedelta(seconds=draw.randrange(1, 3_600))
    return {"created_after": (end - timedelta(hours=length)).isoformat(), "created_before": end.isoformat()}


QUESTIONS: dict[str, Callable[[random.Random, Record], Query]] = {
    "nothing: all there ever was": lambda draw, record: {},
    "count of all": lambda draw, record: {"measure": "count"},
    "every measure of all": lambda draw, record: {"measure": EVERY},
    "by status, any 30 days": lambda draw, record: {"group_by": "status"} | hours(draw, record.newest, 720),
    "by model and status, every measure": lambda draw, record: {"group_by": "model,status", "measure": EVERY},
    "by model, provider and status, any week": lambda draw, record: (
        {"group_by": "model,provider,status"} | hours(draw, record.newest, 168)
    ),
    "by hour, the last 24 hours": lambda draw, record: {"group_by": "hour"},
    "by hour, any week": lambda draw, record: {"group_by": "hour"} | hours(draw, record.newest, 168),
    "by hour and status, any week, count": lambda draw, record: (
        {"group_by": "hour,status", "measure": "count"} | hours(draw, record.newest, 168)
    ),
    "by hour, a model, any two days, of run_seconds": lambda draw, record: (
        {
            "group_by": "hour",
            "model": one(draw, plausible.MODELS),
            "of": "run_seconds",
        }
        | hours(draw, record.newest, 48)
    ),
    "by day, the last 30 days": lambda draw, record: {"group_by": "day"},
    "by day and model, the last 30 days, cost and tokens": lambda draw, record: {
        "group_by": "day,model",
        "measure": "count,cost,tokens",
    },
    "by month": lambda draw, record: {"group_by": "month"},
    "by error_type": lambda draw, record: {"group_by": "error_type", "measure": "count,p95"},
    "an error_type by day and model": lambda draw, record: {
        "group_by": "day,model",
        "error_type": one(draw, plausible.ERRORS),
        "measure": "count",
    },
    "by model, copy_seconds, any 30 days": lambda draw, record: (
        {"group_by": "model", "of": "copy_seconds"} | hours(draw, record.newest, 720)
    ),
    "by model, any 50 hours from minute to minute": lambda draw, record: (
        {"group_by": "model"} | hours(draw, record.newest, 50, ragged=True)
    ),
    "a rare tag by status": lambda draw, record: {"tag": plausible.campaign(draw, record.jobs), "group_by": "status"},
    "a tag by model, any hour": lambda draw, record: (
        {"tag": one(draw, plausible.TAGS), "group_by": "model"} | hours(draw, record.newest, 1)
    ),
    "total_seconds_min=20 by model, any hour": lambda draw, record: (
        {"total_seconds_min": "20", "group_by": "model"} | hours(draw, record.newest, 1)
    ),
    "a rare mask label by day": lambda draw, record: (
        {
            "mask_label": plausible.plate(draw, record.jobs),
            "group_by": "day",
        }
        | hours(draw, record.newest, 720)
    ),
}


async def count(database_url: str, name: str) -> None:
    async with open_database(database_url) as db:
        counted, begun = 0, time.monotonic()
        while marks := await count_some(db, LARGE_BATCH):
            counted += marks
            tell(f"{name}: {counted:,} counted after {time.monotonic() - begun:.0f} s")
        if counted:
            await db.execute("VACUUM (ANALYZE) tallies, series, uncounted")


def main() -> None:
    options = read_options("bench.figures", __doc__)
    questions = {name: asked for name, asked in QUESTIONS.items() if options.only in name}
    machine = report.machine()
    for data in options.data:
        with supervised(DataDirectory(data)) as (_, prepare):
            database_url = prepare().postgres()
            upgrade(database_url)
            asyncio.run(count(database_url, data.name))
    with until_stopped(), ExitStack() as stack:
        records = [stack.enter_context(serving(data)) for data in options.data]
        uvloop.run(measure(records, "/v1/stats", "groups", questions, options.times, work=options.work))
        print(f"{machine}\n\n{table(records)}")
        if options.work:
            print(f"\n{work_table(records)}")


if __name__ == "__main__":
    main()
