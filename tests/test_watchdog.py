"""What a watchdog thinks of a process, on a clock of the test's own, and what it does to a real one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import watchdog
from service.local.identity import ProcessIdentity
from service.watchdog import ALIVE, ARRIVED, ENDING, GRACE_SECONDS, LONGEST_END, SENT, Finding, Watch
from tests.stand_in.server import eventually

ROOT = Path(__file__).parents[1]
EVERY = 10.0


def told(*words: tuple[float, bytes]) -> Watch:
    """A watch that began at 0 and heard these words at these times."""
    watch = Watch(EVERY, 0.0)
    for at, word in words:
        watch.hear(word, at)
    return watch


def found(watch: Watch) -> tuple[float, Finding | None]:
    """When something is wrong if no other word comes, and what."""
    assert watch.finding(watch.deadline - 0.001) is None
    return watch.deadline, watch.finding(watch.deadline)


def test_who_says_nothing_at_all_has_stood_still() -> None:
    assert found(told()) == (30.0, Finding.SILENT)
    assert found(told((5.0, ALIVE))) == (35.0, Finding.SILENT)
    assert found(told((5.0, SENT), (5.1, ARRIVED))) == (35.1, Finding.SILENT)


def test_who_sends_and_receives_nothing_is_deaf() -> None:
    assert found(told((10.0, SENT), (20.0, SENT))) == (30.0, Finding.DEAF)


def test_who_falls_silent_with_a_canary_under_way_is_deaf_first() -> None:
    assert found(told((10.0, SENT))) == (30.0, Finding.DEAF)


def test_a_canary_that_arrives_makes_up_for_those_before() -> None:
    assert found(told((10.0, SENT), (20.0, SENT), (21.0, ARRIVED), (29.0, SENT))) == (49.0, Finding.DEAF)


def test_a_broker_that_is_away_is_nobodys_deafness() -> None:
    words = [(10.0 * number, SENT + ALIVE) for number in range(1, 100)]
    assert found(told(*words)) == (990.0 + 30.0, Finding.SILENT)


def test_words_are_heard_in_the_order_in_which_they_were_said() -> None:
    assert told((1.0, SENT + ARRIVED)).deadline == 31.0
    assert told((1.0, ARRIVED + SENT)).deadline == 21.0


def test_who_ends_is_given_time_and_no_more() -> None:
    ending = told((10.0, SENT), (20.0, ENDING), (22.0, SENT), (30.0, ENDING))
    assert found(ending) == (20.0 + LONGEST_END, Finding.ENDLESS)


def test_canaries_that_come_often_do_not_make_it_hasty() -> None:
    watch = Watch(0.1, 0.0)
    watch.hear(SENT, 1.0)
    assert found(watch) == (11.0, Finding.SILENT)


@pytest.mark.parametrize("word", [b"", ALIVE, SENT, ENDING])
def test_time_in_which_nobody_ran_does_not_count(word: bytes) -> None:
    watch = told((1.0, word)) if word else told()
    before = watch.deadline
    watch.begin_anew(1_000.0)
    assert watch.finding(1_000.0) is None
    assert watch.deadline >= 1_000.0 + min(before, 20.0) - 1.0


WORDS = st.lists(st.tuples(st.floats(0.0, EVERY), st.sampled_from([SENT, ARRIVED, ALIVE])), max_size=30)


@given(WORDS, st.floats(0.0, EVERY))
def test_a_worker_that_answers_each_canary_in_time_is_never_found_out(
    words: list[tuple[float, bytes]], at: float
) -> None:
    watch, now = Watch(EVERY, 0.0), 0.0
    for pause, word in words:
        now += pause
        assert watch.finding(now) is None
        watch.hear(word + ARRIVED if word == SENT else word, now)
    assert watch.finding(now + at) is None


@given(WORDS)
def test_the_last_proof_of_work_is_never_older_than_three_canaries(words: list[tuple[float, bytes]]) -> None:
    """Of a worker that sends every ten seconds: then all is over within a minute, with 22 s for an orderly end."""
    watch = Watch(EVERY, 0.0)
    for pause, word in words:
        watch.hear(word, pause)
    watch.hear(ARRIVED, 0.0)
    for at in (EVERY, 2 * EVERY):
        assert watch.finding(at) is None
        watch.hear(SENT, at)
    assert watch.finding(3 * EVERY) is Finding.DEAF
    assert 3 * EVERY + GRACE_SECONDS + 8 <= 60


WATCHED = """
import os, signal, sys, time
from service.watchdog import Watched
watched = Watched(0.1, patience=1.0)
print(watched._watchdog.pid, flush=True)
"""


@contextmanager
def running(code: str) -> Iterator[tuple["subprocess.Popen[str]", ProcessIdentity]]:
    """A process with a watchdog, and the watchdog."""
    command = [sys.executable, "-c", WATCHED + code]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        dog = ProcessIdentity.of(int(process.stdout.readline()))
        assert dog is not None
        yield process, dog
    finally:
        process.kill()
        process.communicate()


SPEAKS = "while True: watched.say(b'a'); time.sleep(0.1)"


def test_it_ends_with_whom_it_watches() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        with running(SPEAKS) as (process, dog):
            process.send_signal(number)
            process.wait(10)
            eventually(lambda dog=dog: not dog.alive)


def test_ctrl_c_and_sigterm_are_for_others() -> None:
    with running(f"print(flush=True)\n{SPEAKS}") as (process, dog):
        assert process.stdout is not None
        process.stdout.readline()
        command = Path(f"/proc/{dog.pid}/status")
        if command.exists():
            eventually(lambda: int(command.read_text().partition("SigIgn:\t")[2].split()[0], 16) & 1 << 14)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(dog.pid, number)
        process.kill()
        eventually(lambda: not dog.alive)


def test_a_watchdog_that_was_killed_gets_a_successor() -> None:
    renews = "while True: watched.renew(); watched.say(b'a'); print(watched._watchdog.pid, flush=True); time.sleep(0.1)"
    with running(renews) as (process, dog):
        os.kill(dog.pid, signal.SIGKILL)
        assert process.stdout is not None
        eventually(lambda: int(process.stdout.readline()) != dog.pid)  # type: ignore[union-attr]


def test_who_stands_still_is_killed_with_one_line() -> None:
    with running("signal.pause()") as (process, dog):
        process.send_signal(signal.SIGSTOP)
        assert process.wait(30) == -signal.SIGKILL
        eventually(lambda: not dog.alive)
        assert process.stderr is not None
        [line] = process.stderr.read().splitlines()
        assert f"[error    ] watchdog: {Finding.SILENT.value}" in line
        assert line.endswith(f"pid={process.pid}")


DEAF = "while True: watched.say(b'p'); time.sleep(0.1)"


def test_who_is_deaf_is_asked_first() -> None:
    with running(DEAF) as (process, dog):
        assert process.wait(30) == -signal.SIGTERM
        eventually(lambda: not dog.alive)


def test_who_is_deaf_to_that_too_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    reading, writing = os.pipe()
    sent: list[signal.Signals] = []
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "send", lambda _, number: sent.append(number))
    try:
        watchdog.end(process.pid, Finding.DEAF, reading)
        assert sent == [signal.SIGTERM, signal.SIGKILL]
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def test_nobody_but_its_own_parent_is_ever_signalled() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        watchdog.send(stranger.pid, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.3)
    finally:
        stranger.kill()
        stranger.wait()


def test_it_runs_on_the_standard_library_alone() -> None:
    """By its path, isolated, and with nothing installed: it is started beside every worker."""
    with running(SPEAKS) as (_, dog):
        words = Path(f"/proc/{dog.pid}/cmdline")
        if not words.exists():
            pytest.skip("the command line is read in /proc")
        # The kernel lets its parent go on before it has put the new command line in its place.
        assert eventually(words.read_bytes).split(b"\0")[1:4] == [b"-I", b"-S", watchdog.__file__.encode()]
        assert dog.alive
