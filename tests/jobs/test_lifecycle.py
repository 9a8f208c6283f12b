"""The table of moves, by itself."""

from service.jobs.lifecycle import ENDED, FAL_STATUS, LIVE, MOVES, Event, Status


def test_every_event_has_one_move() -> None:
    assert set(MOVES) == set(Event)


def test_an_ended_job_goes_nowhere() -> None:
    assert not any(status in MOVES[event].sources for status in ENDED for event in Event)


def test_every_status_is_live_or_ended() -> None:
    assert set(LIVE) | set(ENDED) == set(Status)
    assert not set(LIVE) & set(ENDED)


def test_every_status_can_be_reached_from_the_first() -> None:
    reached = {move.target for move in MOVES.values() if not move.sources}
    for _ in Status:
        reached |= {move.target for move in MOVES.values() if set(move.sources) & reached}
    assert reached == set(Status)


def test_every_live_job_can_end_in_every_way() -> None:
    for event in (Event.COMPLETED, Event.FAILED, Event.CANCELLED):
        assert all(status in MOVES[event].sources for status in LIVE)
        assert MOVES[event].target in ENDED


def test_a_job_only_goes_forward() -> None:
    order = list(Status)
    for move in MOVES.values():
        assert all(order.index(source) < order.index(move.target) for source in move.sources)


def test_fals_words_cover_every_status() -> None:
    assert set(FAL_STATUS) == set(Status)
    assert {FAL_STATUS[status] for status in ENDED} == {"COMPLETED"}
    assert FAL_STATUS[Status.QUEUED] == FAL_STATUS[Status.SUBMITTED] == "IN_QUEUE"
