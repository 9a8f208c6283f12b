"""The supervisor with small real children: who is started again, who is stopped first, and what is left."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.local import processes
from service.local.directory import DataDirectory
from service.local.errors import CannotStart, InUse
from service.local.identity import ProcessIdentity
from service.local.leftovers import Register
from service.local.processes import Child, Program, Supervisor
from tests.stand_in.server import eventually

ROOT = Path(__file__).parents[2]
SLEEP = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); {SLEEP}"
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")


def python(name: str, code: str, patience: float = 10) -> Program:
    return Program(name, [sys.executable, "-c", code], os.environ, patience=patience)


@pytest.fixture
def register(place: Path) -> Register:
    return Register(place / "processes")


@pytest.fixture
def supervisor(register: Register) -> Iterator[Supervisor]:
    with Supervisor(register) as supervisor:
        yield supervisor


def first_word(child: Child) -> str:
    return eventually(lambda: list(child.last_lines))[0]


def identified(pid: int | None) -> ProcessIdentity:
    identity = ProcessIdentity.of(pid) if pid else None
    assert identity is not None
    return identity


def test_a_child_that_dies_is_started_again_and_said_so(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    child = supervisor.start(python("sleeper", SLEEP))
    first = eventually(lambda: child.pid)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: child.pid not in {None, first})
    assert "roundtrip: sleeper was ended by SIGKILL; starting it again in 0.2 s" in capsys.readouterr().err


def test_a_child_that_is_asked_to_end_is_not_made_to_wait_longer_each_time(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ASKED_AFTER", 0.0)
    child = supervisor.start(python("sleeper", SLEEP))
    for _ in range(3):
        asked = eventually(lambda: child.pid)
        os.kill(asked, signal.SIGTERM)
        eventually(lambda asked=asked: child.pid not in {None, asked})
    assert (
        capsys.readouterr().err.splitlines()
        == ["roundtrip: sleeper was ended by SIGTERM; starting it again in 0.2 s"] * 3
    )


def test_what_a_child_says_is_passed_on_with_its_name(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor.start(python("talker", f"print('good morning', flush=True); {SLEEP}"))
    eventually(lambda: "talker   | good morning\n" in capsys.readouterr().err)


def test_a_child_that_does_not_stay_up_ends_the_start_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start(python("faulty", "import sys; sys.exit('no luck today')"))
    with pytest.raises(CannotStart, match=r"faulty does not stay up: it ended with status 1.*no luck today"):
        supervisor.wait_for(lambda: False, within=60, what="never")


def test_a_program_that_cannot_be_run_ends_the_start_too(supervisor: Supervisor) -> None:
    supervisor.start(Program("absent", ["/no/such/program"], {}))
    with pytest.raises(CannotStart, match="absent does not stay up: it could not be started"):
        supervisor.wait_for(lambda: False, within=60, what="never")


def test_what_was_started_last_is_stopped_first(register: Register, place: Path) -> None:
    diary = place / "diary"
    with Supervisor(register) as supervisor:
        for name in ("first", "second", "third"):
            write = f"open({str(diary)!r}, 'a').write('{name} ')"
            code = f"import signal, sys\nsignal.signal(15, lambda *_: ({write}, sys.exit()))\nprint('up', flush=True)"
            first_word(supervisor.start(python(name, f"{code}\n{SLEEP}")))
    assert diary.read_text().split() == ["third", "second", "first"]


def test_a_child_that_does_not_listen_is_killed_when_patience_is_over(register: Register) -> None:
    with Supervisor(register) as supervisor:
        child = supervisor.start(python("deaf", DEAF, patience=0.2))
        first_word(child)
        identity = identified(child.pid)
    assert not identity.alive


def test_hurry_ends_the_patience(register: Register) -> None:
    with Supervisor(register) as supervisor:
        child = supervisor.start(python("deaf", DEAF, patience=600))
        first_word(child)
        identity = identified(child.pid)
        supervisor.hurry()
    assert not identity.alive


def test_what_a_child_forked_ends_with_it(register: Register) -> None:
    forks = f"import os\nif forked := os.fork(): print(forked, flush=True)\n{SLEEP}"
    with Supervisor(register) as supervisor:
        forked = identified(int(first_word(supervisor.start(python("parent", forks)))))
    eventually(lambda: not forked.alive)


OWNER = """
import os, sys, threading
from pathlib import Path
from service.local.directory import DataDirectory
from service.local.processes import Program
from service.local.servers import supervised

with supervised(DataDirectory(Path(sys.argv[1]))) as (supervisor, prepare):
    servers = prepare()
    servers.postgres()
    servers.valkey()
    sleeper = supervisor.start(Program("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], os.environ))
    supervisor.wait_for(lambda: sleeper.pid is not None, within=30, what="no sleeper")
    print(*(child.pid for child in supervisor.children.values()), flush=True)
    threading.Event().wait()
"""


@linux
def test_when_the_owner_is_killed_nothing_is_left_and_the_place_is_free(data: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, data], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            children = [identified(int(pid)) for pid in owner.stdout.readline().split()]
            with pytest.raises(InUse, match=f"in use by process {owner.pid}"), DataDirectory(data).owned():
                pass
        finally:
            owner.kill()
    assert len(children) == 3
    eventually(lambda: not any(child.alive for child in children))
    with DataDirectory(data).owned():
        pass


def test_the_next_owner_ends_what_is_left_and_nothing_else(register: Register) -> None:
    command = [sys.executable, "-c", SLEEP]
    left = subprocess.Popen(command, start_new_session=True)
    stranger = subprocess.Popen(command, start_new_session=True)
    try:
        register.add("left", left.pid)
        with register.path.open("a") as file:
            file.write(f"reused {stranger.pid} some-other-time\nnonsense\n")
        assert register.end_leftovers() == ["left"]
        assert left.wait(10) != 0
        assert stranger.poll() is None
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()
