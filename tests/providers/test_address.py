"""The address of one attempt, which only we can have made."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.providers.address import Sealer

SEALER = Sealer(bytes(32))
attempts = st.integers(0, 32_767)
models = st.from_regex(r"[a-z0-9-]+(/[a-z0-9.-]+){1,3}", fullmatch=True)


@given(st.uuids(), attempts, models)
def test_an_address_holds_for_what_it_names(job_id: UUID, attempt: int, model: str) -> None:
    _, _, _, job, number, seal, *rest = SEALER.path(job_id, attempt, model).split("/")
    assert (UUID(job), int(number), "/".join(rest)) == (job_id, attempt, model)
    assert SEALER.holds(job_id, attempt, model, seal)


@given(st.uuids(), attempts, models, st.uuids(), attempts, models)
def test_an_address_holds_for_nothing_else(
    job_id: UUID, attempt: int, model: str, other: UUID, number: int, name: str
) -> None:
    seal = SEALER.path(job_id, attempt, model).split("/")[5]
    assert SEALER.holds(other, number, name, seal) is ((other, number, name) == (job_id, attempt, model))
    assert not Sealer(b"\1" * 32).holds(job_id, attempt, model, seal)


@pytest.mark.parametrize("seal", ["", "0" * 32, "\u00e9" * 32, "\ud800", "0" * 100_000])
def test_a_made_up_seal_does_not_hold(seal: str) -> None:
    try:
        assert not SEALER.holds(UUID(int=1), 1, "a/b", seal)
    except UnicodeEncodeError:
        assert seal == "\ud800"  # No path that reaches us can hold one.
