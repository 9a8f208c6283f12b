"""A Sa2VA job through the whole service, its masks' figures computed once more, from the PNGs alone."""

import base64
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from scripts.picture import HEIGHT, WIDTH, draw
from service.local.up import running
from service.settings import load_settings
from tests.stand_in.server import eventually

SA2VA = "fal-ai/sa2va/8b/image"
Pixels = NDArray[np.bool_]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    place = Path(tempfile.mkdtemp(prefix="sa2va-"))
    place.chmod(0o755)
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("ROUNDTRIP_", "FAL_"))]:
            environment.delenv(name)
        with running(load_settings(data=place / "data"), port=0) as service:
            key = (service.data / "admin-key").read_text().strip()
            headers = {"authorization": f"Key {key}"}
            with httpx.Client(base_url=service.url, headers=headers, trust_env=False, timeout=60) as client:
                yield client
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def job(client: httpx.Client) -> dict[str, Any]:
    picture = f"data:image/jpeg;base64,{base64.b64encode(draw()).decode()}"
    asked = {"model": SA2VA, "input": {"image_url": picture, "prompt": "Segment the truck and the building."}}
    request_id = client.post("/v1/jobs", json=asked).raise_for_status().json()["request_id"]

    def stored() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{request_id}").raise_for_status().json()
        return job if job["masks"] and all(mask["sha256"] for mask in job["masks"]) else None

    return eventually(stored, within=90)


def pixels(client: httpx.Client, mask: dict[str, Any]) -> Pixels:
    """From the PNG's grey values alone."""
    with Image.open(io.BytesIO(client.get(mask["url"]).raise_for_status().content)) as image:
        assert image.mode in {"L", "1", "RGB"}
        return np.asarray(image.convert("L")) >= 128


def test_labels_are_those_of_the_text_in_order(job: dict[str, Any]) -> None:
    found = re.findall(r"<p>(.*?)</p>\s*\[SEG\]", job["output"]["output"], re.DOTALL)
    assert [mask["label"] for mask in job["masks"]] == [label.strip() for label in found]
    assert [mask["index"] for mask in job["masks"]] == list(range(len(found)))
    assert len(found) >= 3


def test_area_and_box_are_those_of_the_pixels(client: httpx.Client, job: dict[str, Any]) -> None:
    for mask in job["masks"]:
        inside = pixels(client, mask)
        rows, columns = np.nonzero(inside)
        assert (mask["height"], mask["width"]) == inside.shape == (HEIGHT, WIDTH)
        assert mask["area_fraction"] == np.count_nonzero(inside) / inside.size
        assert mask["bbox"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_run_lengths_are_the_pixels(client: httpx.Client, job: dict[str, Any]) -> None:
    for mask in job["masks"]:
        inside, said = pixels(client, mask), client.get(mask["links"]["rle"]).json()
        assert np.array_equal(coco.decode(said) > 0, inside)
        assert (said["area"], said["bbox"]) == (np.count_nonzero(inside), mask["bbox"])
        assert coco.area(said) == said["area"]


def test_polygons_cover_the_pixels(client: httpx.Client, job: dict[str, Any]) -> None:
    for mask in job["masks"]:
        inside, said = pixels(client, mask), client.get(mask["links"]["polygons"]).json()
        canvas = Image.new("L", (WIDTH * 4, HEIGHT * 4))
        for outer, *holes in said["coordinates"]:
            for ring, value in ((outer, 255), *((hole, 0) for hole in holes)):
                ImageDraw.Draw(canvas).polygon([(x * 4, y * 4) for x, y in ring], fill=value)
        drawn = np.asarray(canvas.resize((WIDTH, HEIGHT), Image.Resampling.BOX)) > 127
        share = np.count_nonzero(drawn & inside) / np.count_nonzero(drawn | inside)
        print(f"{mask['label']}: {share:.4f} of the pixels in common")
        assert share >= 0.98
        assert (said["area"], said["bbox"]) == (np.count_nonzero(inside), mask["bbox"])


def test_a_cut_out_is_the_picture_where_the_pixels_are(client: httpx.Client, job: dict[str, Any]) -> None:
    with Image.open(io.BytesIO(draw())) as image:
        picture = np.asarray(image.convert("RGB"))
    for mask in job["masks"]:
        left, top, right, bottom = mask["bbox"]
        inside = pixels(client, mask)[top:bottom, left:right]
        with Image.open(io.BytesIO(client.get(mask["links"]["cutout"]).content)) as cut:
            assert np.array_equal(np.asarray(cut)[..., 3] == 255, inside)
            assert np.array_equal(np.asarray(cut)[inside][:, :3], picture[top:bottom, left:right][inside])


def test_an_overlay_changes_the_picture_where_the_pixels_are(client: httpx.Client, job: dict[str, Any]) -> None:
    with Image.open(io.BytesIO(draw())) as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    everything = np.zeros((HEIGHT, WIDTH), bool)
    for mask in job["masks"]:
        inside = pixels(client, mask)
        everything |= inside
        with Image.open(io.BytesIO(client.get(mask["links"]["overlay"]).content)) as drawn:
            changed = (np.asarray(drawn.convert("RGB")) != picture).any(axis=2)
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.95
    with Image.open(io.BytesIO(client.get(f"/v1/jobs/{job['request_id']}/overlay").content)) as drawn:
        changed = (np.asarray(drawn.convert("RGB")) != picture).any(axis=2)
    assert not changed[~everything].any()
