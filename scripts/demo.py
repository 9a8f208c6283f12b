"""One job on each of the five models, through the whole service on this machine, and a table of what came back."""

import argparse
import base64
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from scripts.picture import draw
from service.local.errors import CannotStart
from service.local.stopping import until_stopped
from service.local.up import Running, running
from service.settings import SettingsError, load_settings

LONGEST_SECONDS = 120.0
HEADINGS = ("model", "request ID", "status", "total s", "provider s", "model s")


@dataclass(frozen=True)
class Example:
    model: str
    input: dict[str, Any]


def examples(picture: str) -> list[Example]:
    return [
        Example("fal-ai/nemotron-diffusion-vlm", {"image_url": picture, "prompt": "Describe the picture."}),
        Example("fal-ai/llava-next", {"image_url": picture, "prompt": "What stands on the road?"}),
        Example("fal-ai/mini-cpm", {"image_urls": [picture], "prompt": "Which colours are in the picture?"}),
        Example(
            "fal-ai/sa2va/8b/image",
            {"image_url": picture, "prompt": "Segment the white pickup truck and the red building."},
        ),
        Example("fal-ai/flux-vision-upscaler", {"image_url": picture, "upscale_factor": 2, "seed": 7}),
    ]


def as_data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def submit(client: httpx.Client, example: Example) -> str:
    response = client.post("/v1/jobs", json={"model": example.model, "input": example.input})
    if response.is_error:
        raise CannotStart(f"{example.model} was refused: {response.text}")
    request_id: str = response.json()["request_id"]
    return request_id


def wait_for_end(client: httpx.Client, request_id: str) -> dict[str, Any]:
    """The job at its end and with its masks copied, or as it is when the time is over."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        response = client.get(f"/v1/jobs/{request_id}", params={"wait": 20})
        response.raise_for_status()
        job: dict[str, Any] = response.json()
        ended = job["status"] in {"completed", "failed", "cancelled"}
        if ended and all(mask["sha256"] for mask in job["masks"]):
            return job
        if time.monotonic() > deadline:
            return job
        time.sleep(0.1)


def what_came_back(job: dict[str, Any]) -> str:
    if job["error"]:
        return shortened(str(job["error"].get("message", job["error"])))
    output = job["output"] or {}
    image = output.get("image")
    if isinstance(image, dict):
        return f"image {image.get('width')} x {image.get('height')}"
    return shortened(str(output.get("output", "")))


def shortened(text: str, length: int = 90) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def row(job: dict[str, Any]) -> tuple[str, ...]:
    timings = job["timings"]
    own = timings.get("model") or {}
    return (
        job["model"],
        job["request_id"],
        job["status"],
        seconds(timings.get("total_seconds")),
        seconds(timings.get("provider_seconds")),
        seconds(own.get("inference", own.get("total_time"))),
    )


def masks(found: list[dict[str, Any]]) -> str:
    """How many, and the label of each; its share of the picture once our own copy has been measured."""
    shares = (f" {mask['area_fraction']:.0%}" if mask["area_fraction"] is not None else "" for mask in found)
    named = (f"{mask['label'] or mask['index']}{share}" for mask, share in zip(found, shares, strict=True))
    return shortened(f"{len(found)} masks: {', '.join(named)}")


def seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def print_table(jobs: Sequence[dict[str, Any]]) -> None:
    """Each job on a line of its own, and below it what came back."""
    rows = [row(job) for job in jobs]
    lines = [HEADINGS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]

    def show_line(cells: Sequence[str]) -> None:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())

    show_line(HEADINGS)
    show_line(["-" * width for width in widths])
    for job, cells in zip(jobs, rows, strict=True):
        show_line(cells)
        print(f"    {what_came_back(job)}")
        if job["masks"]:
            print(f"    {masks(job['masks'])}")


def show(service: Running) -> bool:
    """Whether all five completed."""
    picture = as_data_uri(draw())
    headers = {"Authorization": f"Key {service.admin_key}"}
    with httpx.Client(base_url=service.url, headers=headers, trust_env=False, timeout=60) as client:
        request_ids = [submit(client, example) for example in examples(picture)]
        jobs = [wait_for_end(client, request_id) for request_id in request_ids]
    print_table(jobs)
    return all(job["status"] == "completed" for job in jobs)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=8000)
    options.add_argument("--data", type=Path, default=Path(".roundtrip"))
    options.add_argument("--once", action="store_true", help="end after the table")
    chosen = options.parse_args()
    print("Starting PostgreSQL, Valkey, the API, the worker, beat and the sandbox …", flush=True)
    with until_stopped() as stop, running(load_settings(data=chosen.data), chosen.host, chosen.port) as service:
        stop.second_time(service.supervisor.hurry)
        completed = show(service)
        if chosen.once:
            return 0 if completed else 1
        print(f"\nAPI        {service.url}\ndashboard  {service.url}/dashboard\nadmin key  {service.admin_key}")
        print("\nCtrl-C stops it.", flush=True)
        stop.wait()
    return 130 if chosen.once else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotStart as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except SettingsError as error:
        print(f"demo: {error.line}", file=sys.stderr)
        sys.exit(2)
