"""The status stream tells every change once and ends with COMPLETED."""

import json
from typing import Any

from tests.sandbox.running import Sandbox, running_sandbox


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_a_stream_ends_with_completed(sandbox: Sandbox) -> None:
    accepted = sandbox.accept(sandbox={"work_seconds": 0.05})
    told = events(sandbox.wait(accepted))
    assert told[-1]["status"] == "COMPLETED"
    assert told[-1]["metrics"]["inference_time"] > 0
    assert all(event["request_id"] == accepted["request_id"] for event in told)


def test_a_stream_tells_each_log_entry_once(sandbox: Sandbox, shapes_url: str) -> None:
    accepted = sandbox.accept("fal-ai/sa2va/8b/image", image_url=shapes_url, prompt="all")
    streamed = [entry for event in events(sandbox.wait(accepted)) for entry in event["logs"]]
    assert streamed == sandbox.http.get(accepted["status_url"], params={"logs": "1"}).json()["logs"]
    assert len(streamed) > 3


def test_a_stream_is_server_sent_events_in_ascii(sandbox: Sandbox) -> None:
    accepted = sandbox.accept()
    response = sandbox.http.get(f"{accepted['status_url']}/stream")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith(": ping\n\n")
    assert response.content.isascii()
    assert events(response.text)[-1]["logs"] is None


def test_a_quiet_stream_is_kept_alive_with_pings() -> None:
    with running_sandbox(ping_seconds=0.01) as sandbox:
        accepted = sandbox.held()
        with sandbox.http.stream("GET", f"{accepted['status_url']}/stream") as response:
            pings = (line for line in response.iter_lines() if line == ": ping")
            assert [next(pings) for _ in range(3)] == [": ping"] * 3


def test_a_stream_tells_how_the_queue_moves() -> None:
    with running_sandbox(concurrency=1) as narrow:
        first, second, third = narrow.held(), narrow.held(), narrow.accept()
        with narrow.http.stream("GET", f"{third['status_url']}/stream") as response:
            lines = (line for line in response.iter_lines() if line.startswith("data: "))
            assert json.loads(next(lines)[6:])["queue_position"] == 1
            narrow.cancel(first)
            assert json.loads(next(lines)[6:])["queue_position"] == 0
            narrow.cancel(second)
            assert json.loads([*lines][-1][6:])["status"] == "COMPLETED"
