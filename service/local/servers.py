"""The embedded servers of one data directory, for a whole service or for a single command."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from service.local.account import Account, server_account
from service.local.directory import DataDirectory, socket_directory
from service.local.errors import InUse
from service.local.leftovers import Register
from service.local.postgres import start_postgres
from service.local.processes import Supervisor, tell
from service.local.valkey import start_valkey

NO_SETTINGS: Mapping[str, str] = {}

# How long a command waits for an `up` that has just begun, or for another command, before it gives up.
PATIENCE = 30.0


@dataclass(frozen=True)
class Servers:
    """Starts embedded servers under the supervisor of the directory's owner."""

    directory: DataDirectory
    supervisor: Supervisor
    place: Path
    sockets: Path
    account: Account

    def postgres(self, settings: Mapping[str, str] = NO_SETTINGS) -> str:
        """`settings` go before our own."""
        return start_postgres(self.supervisor, self.directory, self.place, self.sockets, self.account, settings)

    def valkey(self) -> str:
        return start_valkey(self.supervisor, self.directory, self.place, self.sockets, self.account)


@contextmanager
def supervised(directory: DataDirectory) -> Iterator[tuple[Supervisor, Callable[[], Servers]]]:
    """Own the directory, with a supervisor; the second value prepares for embedded servers, if any are wanted."""
    with ExitStack() as stack:
        stack.enter_context(directory.owned())
        register = Register(directory.path / "processes")
        if left := register.end_leftovers():
            tell(f"roundtrip: ended what an earlier run left behind: {', '.join(left)}")

        def servers() -> Servers:
            account = server_account(directory.servers / "postgres")
            place, remark = directory.place_servers(account)
            if remark:
                tell(f"roundtrip: {remark}")
            return Servers(
                directory, supervisor, place, sockets.enter_context(socket_directory(place, account)), account
            )

        sockets = stack.enter_context(ExitStack())
        supervisor = stack.enter_context(Supervisor(register))
        yield supervisor, servers


@contextmanager
def embedded_database(data: Path) -> Iterator[str]:
    """The address of the data directory's PostgreSQL: the one that is running, or one for just this long."""
    directory = DataDirectory(data)
    deadline = monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                _, servers = stack.enter_context(supervised(directory))
                url = servers().postgres()
                break
            except InUse:
                running = directory.published()
                if running is not None:
                    url = running["database_url"]
                    break
                if monotonic() > deadline:
                    raise
                sleep(0.1)
        yield url
