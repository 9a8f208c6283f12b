"""A record with something on every page of the dashboard."""

import json
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from service.bulk import beginning
from service.bulk.beginning import Asked
from service.bulk.lifecycle import BulkVerb
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.jobs import endings
from service.stats.counting import LARGE_BATCH, count_some
from tests import making
from tests.api.asking import in_every_status, picture, store_copy

# What people and models write, if they want to do harm.
SCRIPT = "<script>window.ran.push('it')</script><img src=x onerror=\"window.ran.push('it')\">"
BIDI = "\u202etxt.exe\u202c \u2066isolated\u2069 \u200fmark"
TERMINAL = "\x1b[31mred\x1b[0m \x07 \x9b2J"
HOSTILE = f"{SCRIPT} {BIDI} {TERMINAL} {{{{7*7}}}} ' \" </textarea></svg> javascript:alert(1)"
# Of a name in an address, and of what is no text for PostgreSQL.
SHORT = "<b>x</b>\u202e'\""


@dataclass
class Filled:
    jobs: dict[str, UUID]
    reports: dict[str, int] = field(default_factory=dict)
    bulk_id: UUID | None = None

    @property
    def pages(self) -> list[str]:
        """Every page that there is, with something on it."""
        job = f"/dashboard/jobs/{self.jobs['hostile']}"
        return [
            "/dashboard",
            "/dashboard?range=7d",
            "/dashboard?range=12m",
            "/dashboard/jobs",
            "/dashboard/jobs?status=failed,cancelled&total_seconds_min=0&metadata.k=v",
            "/dashboard/jobs?cursor=nonsense",
            *(f"/dashboard/jobs/{job_id}" for job_id in self.jobs.values()),
            f"{job}?hide=0&boxes=1",
            *(f"{job}/evidence/{report}?view={view}" for report in self.reports.values() for view in ("text", "hex")),
            "/dashboard/webhooks/in",
            "/dashboard/webhooks/in?verdict=applied&source=webhook",
            "/dashboard/webhooks/out",
            "/dashboard/webhooks/out?state=pending",
            "/dashboard/webhooks/out?state=given_up",
            "/dashboard/bulk",
            "/dashboard/bulk/new?status=failed",
            f"/dashboard/bulk/{self.bulk_id}",
            "/dashboard/system",
            "/dashboard/find?id=nothing",
            "/dashboard/jobs/nothing",
        ]


async def fill(context: Context, tenant: UUID, marker: str = "") -> Filled:
    """`marker` stands wherever a payload has text."""
    hostile = await hostile_job(context, tenant, marker)
    told = await making.ended(
        context.db, tenant, making.failed(f"{HOSTILE} {marker}"), webhook_url="http://127.0.0.1:1/a"
    )
    # Last, because one of these waits to be claimed.
    jobs = await in_every_status(context, tenant)
    filled = Filled(jobs | {"hostile": hostile, "told": told.job_id})
    rows = await making.reports(context.db, filled.jobs["hostile"])
    filled.reports = {row["verdict"]: row["id"] for row in rows}
    asked = Asked(tenant, "a-key", BulkVerb.RETRY, tenant, [("tag", SHORT), *([("q", marker)] if marker else [])])
    filled.bulk_id, _ = await beginning.begin(context.db, asked, str(uuid4()))
    while await count_some(context.db, LARGE_BATCH):
        continue
    return filled


async def hostile_job(context: Context, tenant: UUID, marker: str = "") -> UUID:
    """A completed job of two masks, whose every text wants to do harm."""
    text = f"{HOSTILE} {marker}"
    claim = await making.submitted(
        context.db,
        tenant,
        model="fal-ai/sa2va/8b/image",
        input=json.dumps({"image_url": "https://pictures.invalid/a.png", "prompt": text}),
        tags=[SHORT, "shop", *([marker] if marker else [])],
        metadata=json.dumps({SHORT: text}),
        webhook_url="https://hooks.invalid/<b>",
    )
    urls = [f"https://example.com/{number}.png" for number in range(2)]
    output = {"output": f"<p> {text} </p> [SEG] and {text}", "masks": [{"url": url} for url in urls], "caption": text}
    files = tuple(
        LiftedFile("mask", index, url, label=f"{text} {index}", file_name=f"{SHORT}{index}.png")
        for index, url in enumerate(urls)
    )
    ending = making.completed(json.dumps(output).encode())
    lifted = Lifted(text=text, files=files, usage={SHORT: 3}, timings={SHORT: 1.5})
    envelope = json.dumps({"request_id": "r", "status": "OK", "payload": output}).encode()
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(envelope), "webhook", lifted)
    await making.file_report(context.db, claim, making.failed(text), "r")
    await store_copy(context, claim.job_id, "mask", 0, picture(255))
    await context.db.execute("UPDATE artifacts SET copy_error = $2 WHERE job_id = $1 AND index = 1", claim.job_id, text)
    return claim.job_id
