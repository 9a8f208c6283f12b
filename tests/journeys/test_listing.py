"""The list: newest first, filtered, paged by key. As a tenant of its own, so that whole lists can be compared."""

import json
import re
from collections.abc import Callable

import pytest

from tests.journeys.driver import Driver, assert_refused, new_tag
from tests.stand_in import Script, StandIn
from tests.stand_in import script as scripts
from tests.stand_in.outputs import LLAVA, MINICPM


@pytest.fixture(scope="module")
def tenant(new_tenant: Callable[[str], Driver]) -> Driver:
    return new_tenant("lists")


@pytest.fixture(scope="module")
def ids(tenant: Driver, fal: StandIn) -> list[str]:
    """Twelve ended jobs, newest first: every third failed, every second by another model, all described."""
    made = []
    for number in range(12):
        tag = new_tag()
        if number % 3 == 0:
            fal.script(tag, Script(submits=(scripts.invalid(b'{"detail": "no"}'),)))
        model = MINICPM if number % 2 else LLAVA
        tags = ["all", "even" if number % 2 == 0 else "odd"]
        metadata = {"number": str(number), "order": {"id": number}, "customer": "ACME é"}
        made.append(tenant.post(tag, model, tags=tags, metadata=metadata)["request_id"])
    for request_id in made:
        tenant.ended(request_id)
    return made[::-1]


def test_the_list_is_newest_first(tenant: Driver, ids: list[str]) -> None:
    assert tenant.ids() == ids


def test_a_listed_job_says_what_it_is(tenant: Driver, ids: list[str]) -> None:
    job = next(iter(tenant.pages()))[0]
    whole = tenant.job(ids[0])
    for name in ("request_id", "model", "status", "provider", "created_at", "completed_at", "tags", "metadata"):
        assert job[name] == whole[name]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"status": "failed"}, lambda number: number % 3 == 0),
        ({"status": "completed"}, lambda number: number % 3 != 0),
        ({"status": "queued"}, lambda number: False),
        ({"model": LLAVA}, lambda number: number % 2 == 0),
        ({"model": "no/such-model"}, lambda number: False),
        ({"provider": "fal"}, lambda number: True),
        ({"tag": "even"}, lambda number: number % 2 == 0),
        ({"tag": "eve"}, lambda number: False),
        ({"metadata.number": "7"}, lambda number: number == 7),
        ({"metadata.customer": "ACME é"}, lambda number: True),
        ({"metadata.customer": "ACME"}, lambda number: False),
        ({"metadata.absent": "7"}, lambda number: False),
        ({"status": "failed", "tag": "odd", "model": MINICPM}, lambda number: number % 3 == 0 and number % 2 == 1),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_filter_shows_those_and_no_others(
    tenant: Driver, ids: list[str], query: dict[str, str], wanted: Callable[[int], bool]
) -> None:
    assert tenant.ids(**query) == [ids[11 - number] for number in range(11, -1, -1) if wanted(number)]


def test_a_filter_works_across_pages(tenant: Driver, ids: list[str]) -> None:
    pages = list(tenant.pages(tag="even", limit=2))
    assert [job["request_id"] for page in pages for job in page] == ids[1::2]
    assert max(len(page) for page in pages) == 2


def test_the_list_can_be_cut_by_time(tenant: Driver, ids: list[str]) -> None:
    middle = tenant.job(ids[5])["created_at"]
    newer, older = tenant.ids(created_after=middle), tenant.ids(created_before=middle)
    assert [request_id for request_id in newer if request_id != ids[5]] == ids[:5]
    assert [request_id for request_id in older if request_id != ids[5]] == ids[6:]


@pytest.mark.parametrize("limit", [1, 5, 12, 100])
def test_paging_visits_every_job_once(tenant: Driver, ids: list[str], limit: int) -> None:
    assert tenant.ids(limit=limit) == ids


def test_paging_is_not_disturbed_by_new_jobs(new_tenant: Callable[[str], Driver]) -> None:
    tenant = new_tenant("busy")
    before = [tenant.post(new_tag())["request_id"] for _ in range(6)][::-1]
    seen = []
    for page in tenant.pages(limit=2):
        seen += [job["request_id"] for job in page]
        tenant.post(new_tag())
    assert seen == before


def test_q_finds_a_job_by_words_of_its_input(tenant: Driver, ids: list[str]) -> None:
    [word] = re.findall(r"tag:(\w+)", json.dumps(tenant.job(ids[3])["input"]))
    assert tenant.ids(q=word) == [ids[3]]


def test_q_finds_nothing_that_is_not_there(tenant: Driver, ids: list[str]) -> None:
    assert tenant.ids(q="zebra-%-crossing_'\"\\") == []


def test_a_wildcard_in_q_is_only_a_character(tenant: Driver, ids: list[str]) -> None:
    assert tenant.ids(q="a%e%e%e%e%zz") == []
    assert tenant.ids(q="________") == []


@pytest.mark.parametrize(
    "query",
    [
        {"status": "nope"},
        {"limit": "x"},
        {"limit": "-1"},
        {"limit": "1.5"},
        {"cursor": "garbage"},
        {"cursor": "\x00"},
        {"created_after": "yesterday"},
        {"created_before": "2026-13-45"},
    ],
    ids=str,
)
def test_a_query_that_means_nothing_is_refused(tenant: Driver, query: dict[str, str]) -> None:
    assert_refused(tenant.http.get("/v1/jobs", params=query))


@pytest.mark.parametrize("name", ["q", "tag", "model", "metadata.a"])
def test_a_nul_in_a_query_is_no_accident(tenant: Driver, name: str) -> None:
    assert tenant.http.get("/v1/jobs", params={name: "a\x00b"}).status_code < 500
