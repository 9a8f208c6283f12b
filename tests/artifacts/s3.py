"""moto's S3 in a process of its own: an S3 by the rules of Amazon's own descriptions of it, from PyPI."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx
from obstore.store import S3Store

from tests.journeys.running import free_port
from tests.stand_in.server import eventually

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class S3:
    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT": self.url, "AWS_ALLOW_HTTP": "true"}

    def new_bucket(self, name: str | None = None) -> str:
        name = name or f"files-{uuid4().hex[:12]}"
        httpx.put(f"{self.url}/{name}", trust_env=False).raise_for_status()
        return name

    def keys(self, bucket: str) -> list[str]:
        """Of every object that can be seen."""
        return self._listed(f"{bucket}?list-type=2")

    def unfinished(self, bucket: str) -> list[str]:
        """The keys of uploads in parts that were neither completed nor given up."""
        return self._listed(f"{bucket}?uploads")

    def _listed(self, path: str) -> list[str]:
        answer = httpx.get(f"{self.url}/{path}", trust_env=False).raise_for_status()
        return [str(each.text) for each in ET.fromstring(answer.content).iter() if each.tag.endswith("}Key")]


def bucket_away() -> S3Store:
    """Where nothing listens."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    return S3Store(
        "files",
        config={"endpoint": nowhere, "access_key_id": "id", "secret_access_key": "secret", "region": "us-east-1"},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


@contextmanager
def running_s3(port: int | None = None) -> Iterator[S3]:
    """It forgets everything when it ends."""
    port = port or free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # What is uploaded lies in files there.
    with tempfile.TemporaryDirectory(prefix="s3-") as folder:
        surroundings = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(command, env=surroundings, stdout=-3, stderr=-3) as server:
            try:
                s3 = S3(f"http://127.0.0.1:{port}")
                eventually(lambda: _is_up(s3), within=60, every=0.1)
                yield s3
            finally:
                server.kill()


def _is_up(s3: S3) -> bool:
    try:
        return httpx.get(s3.url, trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
