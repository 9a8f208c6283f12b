"""What a client does, in a client's words."""

import io
import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from tests.stand_in.outputs import LLAVA, MINICPM, UPSCALER
from tests.stand_in.server import eventually

Json = dict[str, Any]
ENDED = {"completed", "failed", "cancelled"}
ORDER = ["queued", "submitted", "in_progress", "ended"]
PICTURE = "https://pictures.example"


def new_tag() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


def sample_input(model: str, tag: str, **more: Any) -> Json:
    """An input of that model; the tag is in the picture's name, as one model takes no prompt."""
    picture = f"{PICTURE}/tag:{tag}.png"
    if model == MINICPM:
        return {"image_urls": [picture], "prompt": "Who is she?", **more}
    if model == UPSCALER:
        return {"image_url": picture, **more}
    return {"image_url": picture, "prompt": "What is here?", **more}


@dataclass(frozen=True)
class Driver:
    """One tenant's view of the service."""

    http: httpx.Client

    def post(self, tag: str, model: str = LLAVA, *, headers: Mapping[str, str] | None = None, **job: Any) -> Json:
        """Register a job and insist that it is accepted."""
        body = {"model": model, "input": sample_input(model, tag), **job}
        answer = self.http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return parsed(answer)

    def job(self, request_id: str) -> Json:
        return parsed(self.get(f"/v1/jobs/{request_id}"))

    def get(self, path: str, **query: Any) -> httpx.Response:
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer

    def ended(self, request_id: str, *, within: float = 30) -> Json:
        return eventually(lambda: ended_only(self.job(request_id)), within=within, every=0.05)

    def reaches(self, request_id: str, *statuses: str, within: float = 30) -> Json:
        def look() -> Json | None:
            job = self.job(request_id)
            return job if job["status"] in statuses else None

        return eventually(look, within=within, every=0.05)

    def stored(self, request_id: str, *, kind: str = "masks", within: float = 30) -> Json:
        """The ended job, once every mask (or image) has its copy."""

        def look() -> Json | None:
            job = self.ended(request_id)
            return job if all(file["sha256"] for file in job[kind]) else None

        return eventually(look, within=within, every=0.05)

    def result(self, request_id: str) -> httpx.Response:
        return self.http.get(f"/v1/jobs/{request_id}/result")

    def attempts(self, request_id: str) -> list[Json]:
        return listed(self.get(f"/v1/jobs/{request_id}/attempts"))

    def events(self, request_id: str) -> list[Json]:
        return listed(self.get(f"/v1/jobs/{request_id}/events"))

    def pages(self, **query: Any) -> Iterator[list[Json]]:
        """Every page of a list, following the cursor."""
        cursor: Json = {}
        for _ in itertools.count():
            body = parsed(self.get("/v1/jobs", **query, **cursor))
            yield listed_in(body)
            following = next((body[name] for name in ("next_cursor", "cursor", "next") if body.get(name)), None)
            if following is None:
                return
            cursor = {"cursor": following}

    def ids(self, **query: Any) -> list[str]:
        return [job["request_id"] for page in self.pages(**query) for job in page]


def ended_only(job: Json) -> Json | None:
    return job if job["status"] in ENDED else None


def parsed(answer: httpx.Response) -> Json:
    body = answer.json()
    assert isinstance(body, dict), body
    return body


def listed(answer: httpx.Response) -> list[Json]:
    """A list, bare or as the only list of an object."""
    body = answer.json()
    return body if isinstance(body, list) else listed_in(body)


def listed_in(body: Json) -> list[Json]:
    [found] = [value for value in body.values() if isinstance(value, list)]
    return found


def exactly(raw: bytes | str) -> Any:
    """JSON with nothing forgiven: order of the keys, repeated keys and every digit count."""
    return json.loads(raw, object_pairs_hook=tuple, parse_float=str, parse_int=lambda digits: f"int {digits}")


def with_addresses(raw: bytes, replace: Callable[[str], str]) -> bytes:
    """The same output, every file's address replaced."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, dict):
            return {
                key: replace(item) if key == "url" and isinstance(item, str) else walk(item)
                for key, item in value.items()
            }
        return value

    return json.dumps(walk(json.loads(raw))).encode()


def addresses(raw: bytes) -> list[str]:
    found: list[str] = []
    with_addresses(raw, lambda url: found.append(url) or url)  # type: ignore[func-returns-value]
    return found


def picture_size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size


def assert_refused(answer: httpx.Response, *statuses: int) -> Json:
    """A clear 4xx with the three things that every error says."""
    assert answer.status_code in statuses if statuses else 400 <= answer.status_code < 500, (
        f"{answer.status_code} {answer.text[:300]}"
    )
    return assert_error(answer)


def assert_error(answer: httpx.Response) -> Json:
    assert answer.status_code >= 400
    body = parsed(answer)
    for name in ("error_type", "message"):
        assert isinstance(body.get(name), str), body
        assert body[name], body
    detail = body.get("detail")
    assert detail, body
    if isinstance(detail, list):
        assert all(item["msg"] and item["type"] and isinstance(item["loc"], list) for item in detail), body
    else:
        assert isinstance(detail, str), body
    return body
