"""A page in a real browser: fal's client through `/fal/proxy`, uploads included, from another origin."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from tests.front.running import HERE, MODULES, require_node
from tests.journeys.driver import new_tag
from tests.journeys.running import Service
from tests.requiring import require
from tests.stand_in import StandIn
from tests.stand_in.outputs import LLAVA

ESBUILD = MODULES / ".bin" / "esbuild"
HTML = '<!doctype html><meta charset="utf-8"><title>A page</title><script src="page.js"></script>'


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page on a server of its own, its script put together as any bundler does it."""
    require_node()
    require("chromium", ESBUILD)
    folder: Path = tmp_path_factory.mktemp("site")
    source, script = HERE / "javascript" / "page.mjs", folder / "page.js"
    command = [ESBUILD, source, "--bundle", "--platform=browser", f"--outfile={script}", "--log-level=error"]
    subprocess.run(command, check=True, cwd=HERE, timeout=60)
    (folder / "index.html").write_text(HTML)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, name="site", daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def page(site: str) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        page.goto(site)
        yield page
        browser.close()


@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_a_page_runs_a_job(page: Page, service: Service, fal: StandIn, mode: str) -> None:
    tag = new_tag()
    asked = {"url": service.url, "key": service.admin_key, "model": LLAVA, "prompt": f"tag:{tag}", "mode": mode}
    said = page.evaluate("(asked) => runEverything(asked)", asked)
    job = service.client().get(f"/v1/jobs/{said['requestId']}").json()
    assert said["data"] == job["output"] == fal.run(tag).output
    assert said["statuses"][-1] == "COMPLETED"
    [submit] = fal.submits_of(tag)
    picture = httpx.get(json.loads(submit.body)["image_url"], trust_env=False)
    assert (picture.headers["content-type"], len(picture.content)) == ("image/png", said["size"])
    assert said["refused"]["status"] == 422
    assert said["refused"]["requestId"]
