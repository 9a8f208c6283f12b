"""A seed is a schedule and its jobs: the same ones whenever it is asked for."""

from collections import Counter

import pytest

from faults.__main__ import FULL, QUICK
from faults.orders import KNOBS, MODELS, make_orders
from faults.run import Size
from faults.schedule import EDGES, KILLED, STOPPED, TROUBLES, make_schedule


def test_a_seed_gives_the_same_again_and_another_one_something_else() -> None:
    assert make_schedule(7, 100, 20) == make_schedule(7, 100, 20)
    assert make_schedule(7, 100, 20) != make_schedule(8, 100, 20)
    assert make_orders(7, 50) == make_orders(7, 50)
    assert make_orders(7, 50) != make_orders(8, 50)


def test_leaving_clocks_out_changes_nothing_else() -> None:
    whole = make_schedule(7, 100, 20)
    assert make_schedule(7, 100, 20, clocks=False) == [fault for fault in whole if fault.kind != "clock"]


@pytest.mark.parametrize("size", [FULL, QUICK], ids=["full", "quick"])
def test_everything_is_over_in_time_and_every_process_is_killed(size: Size) -> None:
    schedule = make_schedule(3, size.seconds, size.kills)
    assert all(fault.at >= 0 and fault.at + fault.seconds <= size.seconds + 0.001 for fault in schedule)
    kills = Counter(fault.target for fault in schedule if fault.kind == "kill")
    assert kills.total() == size.kills
    assert kills.keys() == set(KILLED)


def test_a_full_run_meets_every_trouble_on_every_edge_and_stops_every_process() -> None:
    schedule = make_schedule(3, FULL.seconds, FULL.kills)
    assert {fault.target for fault in schedule if fault.kind == "stop"} == set(STOPPED)
    met = {(fault.target, fault.detail) for fault in schedule if fault.kind == "wire"}
    assert {edge for edge, _ in met} == set(EDGES)
    assert {trouble for _, trouble in met} == {*TROUBLES, "reset"}
    assert {"flush", "disk", "clock"} <= {fault.kind for fault in schedule}


def test_bytes_are_corrupted_only_where_somebody_verifies() -> None:
    for seed in range(30):
        corrupted = {fault.target for fault in make_schedule(seed, 100, 20) if fault.detail == "corrupt"}
        assert corrupted <= {"provider-webhooks", "api-broker", "worker-broker"}


def test_the_jobs_of_a_quick_run_meet_every_knob_and_every_model() -> None:
    orders = make_orders(3, QUICK.jobs)
    asked = [order.knobs for order in orders]
    assert all(any(knobs.items() <= each.items() for each in asked) for knobs in KNOBS)
    assert {order.model for order in orders} == set(MODELS)
    assert any(order.cancel_after is not None for order in orders)
    assert any(order.deadline_seconds is not None for order in orders)
    assert any(order.twice for order in orders)
