"""The pictures of the next job are on their way while the device has the one before.

The jobs have no masks, or the service itself would fetch their pictures, too, to draw them on.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from tests.gpu.working import body, working
from tests.journeys.driver import Driver, parsed
from tests.journeys.running import Service
from tests.stand_in.server import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@contextmanager
def host(asked: list[str]) -> Iterator[str]:
    written = io.BytesIO()
    Image.new("RGB", (8, 16), "#0000ff").save(written, "PNG")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-length", str(len(written.getvalue())))
            self.end_headers()
            self.wfile.write(written.getvalue())

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def submit(client: Driver, prompt: str, image_url: str | None = None) -> str:
    answer = client.http.post("/v1/jobs", json=body(prompt, image_url=image_url))
    request_id: str = parsed(answer)["request_id"]
    return request_id


def test_the_next_picture_is_fetched_once_and_before_its_run(service: Service, client: Driver) -> None:
    asked: list[str] = []
    with host(asked) as url, working(service, name="ahead"):
        first = submit(client, "wait 2000")
        client.reaches(first, "in_progress")
        second = submit(client, "wait 2000")
        client.reaches(second, "submitted")
        third = submit(client, "plain", f"{url}/third.png")
        client.reaches(third, "submitted")
        assert client.http.post(f"/v1/jobs/{first}/cancel").status_code == 202
        eventually(lambda: asked, within=30, every=0.05)
        assert client.job(second)["status"] == "in_progress"
        assert client.job(third)["status"] == "submitted"
        assert client.http.post(f"/v1/jobs/{second}/cancel").status_code == 202
        assert client.ended(third)["output"]["output"] == "8 by 16, #0000ff"
        assert asked == ["/third.png"]


def test_a_picture_that_could_not_be_had_ahead_is_asked_for_again(service: Service, client: Driver) -> None:
    asked: list[str] = []
    with host(asked) as url, working(service, name="ahead-again"):
        first = submit(client, "wait 2000")
        client.reaches(first, "in_progress")
        second = submit(client, "wait 2000")
        client.reaches(second, "submitted")
        gone = url.replace(url.rpartition(":")[2], "9")
        third = submit(client, "plain", f"{gone}/third.png")
        client.reaches(third, "submitted")
        fourth = submit(client, "plain", f"{url}/fourth.png")
        client.reaches(fourth, "submitted")
        for each in (first, second):
            assert client.http.post(f"/v1/jobs/{each}/cancel").status_code == 202
        assert client.ended(third)["error"]["status"] == 422
        assert client.ended(fourth)["status"] == "completed"
        assert asked == ["/fourth.png"]
