"""Twelve tries in at least a day, with jitter."""

from service.callbacks.schedule import JITTER, LONGEST_SECONDS, PAUSES, pause_after

TRIES = len(PAUSES) + 1


def pauses() -> list[float]:
    found = [pause_after(tries) for tries in range(1, TRIES)]
    assert None not in found
    return [pause for pause in found if pause is not None]


def test_the_tries_span_a_day_at_least_whatever_the_jitter() -> None:
    assert sum(PAUSES) * (1 - JITTER) > 24 * 3_600
    assert 24 * 3_600 < sum(pauses()) < LONGEST_SECONDS


def test_the_last_try_is_followed_by_none() -> None:
    assert pause_after(TRIES - 1) is not None
    assert pause_after(TRIES) is None
    assert pause_after(TRIES, asked=10.0) is None


def test_each_pause_is_longer_than_the_one_before() -> None:
    found = pauses()
    assert found == sorted(found)


def test_many_that_failed_together_do_not_come_back_together() -> None:
    assert len({pause_after(3) for _ in range(50)}) == 50


def test_a_receiver_may_ask_for_more_and_not_for_less() -> None:
    assert pause_after(1, asked=500.0) == 500.0
    assert (pause_after(4, asked=1.0) or 0) > 1.0
