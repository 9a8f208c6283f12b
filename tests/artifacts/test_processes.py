"""Files in the hands of the real processes: large ones, ones whose host goes, and workers that are killed meanwhile."""

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.artifacts.memory import forget_peak, peak_of
from tests.faults.killing import is_api, is_worker, kill
from tests.journeys.driver import Driver, Json, new_tag
from tests.journeys.running import Process, Service, installation
from tests.stand_in import Outcome, Script, StandIn
from tests.stand_in.outputs import SA2VA, SEGMENTED, as_json
from tests.stand_in.pictures import TRUCK, photograph
from tests.stand_in.server import eventually

MEGABYTE = 2**20
LARGE = 200
EXTRA = 50 * MEGABYTE

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="processes are looked at in /proc"),
]


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture(scope="module")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, ROUNDTRIP_ALLOW_PRIVATE_NETWORKS="true") as service:
        service.start()
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Driver]:
    with service.client() as http:
        yield Driver(http)


@dataclass
class Host:
    """Serves one file of so many megabytes, and stops half-way until it may go on."""

    megabytes: int
    go_on: threading.Event = field(default_factory=threading.Event)
    half: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def content(self) -> Iterator[bytes]:
        for number in range(self.megabytes):
            yield number.to_bytes(4, "big") * (MEGABYTE // 4)

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for part in self.content():
            digest.update(part)
        return digest.hexdigest()


@contextmanager
def hosting(host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(host.megabytes * MEGABYTE))
            self.end_headers()
            try:
                for number, part in enumerate(host.content()):
                    if number == host.megabytes // 2:
                        host.half.set()
                        assert host.go_on.wait(120)
                    self.wfile.write(part)
            except OSError:
                self.close_connection = True  # Who fetched it was killed.

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_port}/file.bin"
    try:
        yield host
    finally:
        host.go_on.set()
        server.shutdown()
        server.server_close()


def segmenting(fal: StandIn, client: Driver, *urls: str, picture: str | None = None) -> str:
    """A job that ends with masks at these addresses."""
    tag = new_tag()
    masks = [{"url": url} for url in urls]
    fal.script(tag, Script(outcome=lambda _: Outcome(as_json({"output": SEGMENTED, "masks": masks}))))
    asked = {"image_url": picture or f"https://pictures.example/tag:{tag}.png", "prompt": f"tag:{tag}"}
    answer = client.http.post("/v1/jobs", json={"model": SA2VA, "input": asked})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["request_id"])


def of(service: Service, kind: Any) -> list[Process]:
    found = [process for process in service.processes() if kind(process)]
    assert found
    return found


@contextmanager
def little_memory(processes: list[Process]) -> Iterator[None]:
    """What these processes take at their peak is not much more than what they had taken when it began."""
    before = {}
    for process in processes:
        forget_peak(process.pid)
        before[process.pid] = peak_of(process.pid)
    yield
    extra = {pid: peak_of(pid) - at_first for pid, at_first in before.items()}
    print(f"extra memory at the peak, in MiB: { {pid: round(each / MEGABYTE, 1) for pid, each in extra.items()} }")
    assert sum(extra.values()) < EXTRA


def test_a_file_of_200_megabytes_is_copied_and_served_in_little_memory(
    service: Service, fal: StandIn, client: Driver
) -> None:
    # What a worker opens for its first job, it opens for any.
    client.stored(segmenting(fal, client, fal.serve_file(TRUCK.png(), "mask.png")))
    host = Host(LARGE)
    host.go_on.set()
    with hosting(host), little_memory(of(service, is_worker)):
        [mask] = client.stored(segmenting(fal, client, host.url), within=120)["masks"]
    assert (mask["file_size"], mask["sha256"]) == (LARGE * MEGABYTE, host.sha256)

    with little_memory(of(service, is_api)):
        digest, size = hashlib.sha256(), 0
        with client.http.stream("GET", mask["url"]) as answer:
            for chunk in answer.iter_raw(MEGABYTE):
                digest.update(chunk)
                size += len(chunk)
        assert (digest.hexdigest(), size) == (mask["sha256"], mask["file_size"])
        for start in (0, 77 * MEGABYTE, (LARGE - 1) * MEGABYTE):
            asked = {"range": f"bytes={start}-{start + 7}"}
            part = client.http.get(mask["url"], headers=asked)
            assert (part.status_code, part.content) == (206, (start // MEGABYTE).to_bytes(4, "big") * 2)
        half = client.http.get(mask["url"], headers={"range": f"bytes={LARGE * MEGABYTE // 2}-"})
        assert len(half.content) == LARGE * MEGABYTE // 2


def test_a_copy_whose_worker_was_killed_is_whole_afterwards(service: Service, fal: StandIn, client: Driver) -> None:
    host = Host(40)
    with hosting(host):
        request_id = segmenting(fal, client, host.url)
        assert host.half.wait(60)
        killed = kill(service, is_worker)
        assert client.job(request_id)["masks"][0]["sha256"] is None
        host.go_on.set()
        [mask] = client.stored(request_id, within=120)["masks"]
    assert not killed.alive
    assert (mask["file_size"], mask["sha256"]) == (40 * MEGABYTE, host.sha256)
    digest = hashlib.sha256()
    with client.http.stream("GET", mask["url"]) as answer:
        for chunk in answer.iter_raw():
            digest.update(chunk)
    assert digest.hexdigest() == host.sha256
    assert wrongly_named(service.data / "artifacts") == []


def wrongly_named(store: Path) -> list[str]:
    """Files of the store that do not hold what their name says."""
    found = []
    for path in store.glob("??/*"):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                found.append(path.name)
    return found


def hashed(content: bytes) -> str:
    """Where the store has it."""
    sha256 = hashlib.sha256(content).hexdigest()
    return f"{sha256[:2]}/{sha256}"


def test_what_its_host_has_deleted_is_served_for_good(service: Service, fal: StandIn, client: Driver) -> None:
    """The masks and the picture that they are of: nothing but our own store is left to serve them from."""
    theirs = fal.serve_file(TRUCK.png(), "mask.png")
    picture = fal.serve_file(photograph(*TRUCK.size), "picture.png")
    request_id = segmenting(fal, client, theirs, picture=picture)
    [mask] = client.stored(request_id)["masks"]
    kept = service.data / "artifacts" / hashed(photograph(*TRUCK.size))
    eventually(kept.exists)
    eventually(lambda: client.http.head(f"/v1/jobs/{request_id}/overlay").status_code == 200)
    for url in (theirs, picture):
        del fal.files[url.removeprefix(f"{fal.url}/files/")]
        assert httpx.get(url, trust_env=False).status_code == 404
    assert client.http.get(mask["url"]).content == TRUCK.png()
    assert client.http.get(mask["links"]["png"]).content == TRUCK.png()
    assert mask["url"] in client.result(request_id).text
    assert mask["source_url"] == theirs
    drawn = client.get(f"/v1/jobs/{request_id}/overlay")
    assert Image.open(io.BytesIO(drawn.content)).size == TRUCK.size
    assert "immutable" in drawn.headers["cache-control"]


def test_a_mask_that_is_large_is_as_good_as_a_small_one(service: Service, fal: StandIn, client: Driver) -> None:
    size = (6_000, 4_000)
    image = Image.new("L", size)
    image.paste(255, (1_000, 500, 5_000, 3_500))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    [mask] = client.stored(segmenting(fal, client, fal.serve_file(buffer.getvalue(), "mask.png")))["masks"]
    with little_memory(of(service, is_api)):
        rle: Json = client.get(mask["links"]["rle"]).json()
        polygons: Json = client.get(mask["links"]["polygons"]).json()
    for said in (rle, polygons):
        assert (said["area"], said["bbox"], said["size"]) == (4_000 * 3_000, mask["bbox"], [4_000, 6_000])
    assert polygons["coordinates"][0][0][0] == polygons["coordinates"][0][0][-1]
