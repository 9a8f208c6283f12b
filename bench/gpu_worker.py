"""The same inputs as jobs: `roundtrip up`, one `roundtrip gpu-worker` with the model of the bench, and a client."""

import argparse
import base64
import io
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

import httpx
from PIL import Image

from bench.gpu_model import MODEL, PROMPT
from bench.workplace import data_directory, settings_for, tell
from service.local.up import running

ROOT = Path(__file__).parent.parent
NOBODY = "http://127.0.0.1:9"
LOAD_SECONDS = 900.0


def print_worker(options: argparse.Namespace, picture: Image.Image, alone: float) -> None:
    """`alone` is what one input takes with the bare `generate`, in seconds."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    asked = {"image_url": uri, "prompt": PROMPT, "max_tokens": options.tokens, "temperature": 0}
    with (
        data_directory() as data,
        running(settings_for(data, NOBODY), port=0) as service,
        httpx.Client(base_url=service.url, headers={"Authorization": f"Key {service.admin_key}"}, timeout=60) as http,
        loaded_worker(data, options),
    ):
        # The first pays for kernels and caches.
        ended(http, registered(http, asked))
        single = []
        for _ in range(options.rounds):
            start = perf_counter()
            ended(http, registered(http, asked))
            single.append(perf_counter() - start)
        start = perf_counter()
        for job in [registered(http, asked) for _ in range(options.jobs)]:
            ended(http, job)
        together = (perf_counter() - start) / options.jobs
    print("| through a GPU worker | s a job | tokens/s | beside the bare generate |")
    print("| --- | --- | --- | --- |")
    for name, seconds in (
        ("one at a time, median", statistics.median(single)),
        (f"{options.jobs} waiting in the queue", together),
    ):
        print(f"| {name} | {seconds:.3f} | {options.tokens / seconds:.1f} | {seconds / alone - 1:+.2%} |")


@contextmanager
def loaded_worker(data: Path, options: argparse.Namespace) -> Iterator[None]:
    command = [sys.executable, "-m", "service.cli", "gpu-worker", "--model", MODEL, "--device", options.device]
    command += ["--runtime", "bench.gpu_model:find", f"--option=size={options.size}", "--data", str(data)]
    log = data / "gpu-worker.log"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if options.device == "cpu":
        environment["OMP_NUM_THREADS"] = "1"
    with log.open("wb") as output:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        tell("Waiting for the worker to load its model …")
        until = monotonic() + LOAD_SECONDS
        while "is loaded" not in log.read_text(errors="replace"):
            if worker.poll() is not None or monotonic() > until:
                raise SystemExit(f"the worker did not load its model:\n{log.read_text(errors='replace')[-2000:]}")
            sleep(0.2)
        yield
    finally:
        worker.terminate()
        worker.wait(60)


def registered(http: httpx.Client, asked: dict[str, Any]) -> str:
    answer = http.post("/v1/jobs", json={"model": MODEL, "input": asked, "provider": "gpu"})
    answer.raise_for_status()
    request_id: str = answer.json()["request_id"]
    return request_id


def ended(http: httpx.Client, request_id: str) -> None:
    while True:
        job = http.get(f"/v1/jobs/{request_id}", params={"wait": 30}).json()
        if job["status"] == "completed":
            return
        if job["status"] in {"failed", "cancelled"}:
            raise SystemExit(f"a job ended as {job['status']}: {job['error']}")
