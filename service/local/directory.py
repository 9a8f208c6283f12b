"""The data directory: one owner at a time, what the owner tells others, and where the servers keep theirs."""

import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.local.account import Account
from service.local.errors import InUse, Refused
from service.local.identity import ProcessIdentity

# Where the servers' files go when the account that runs the servers cannot reach the data directory.
ELSEWHERE = (Path("/var/lib"), Path("/var/tmp"))

# sockaddr_un holds 104 bytes on macOS and 108 on Linux; PostgreSQL adds ".s.PGSQL.5432.lock" to this.
LONGEST_SOCKET_DIRECTORY = 80


class DataDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        # Passable for the account that root lends the servers, readable for nobody else.
        try:
            self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise Refused(f"{self.path} cannot be the data directory: {error.strerror}") from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise Refused(f"{self.path} cannot be the data directory: this account may not write there")

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Held by one process; the kernel lets go of it when that process ends, however it ends."""
        with (self.path / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                owner = ProcessIdentity.parse(lock.read())
                who = f"process {owner.pid}" if owner else "another process"
                choice = "choose another data directory (--data; with make: DATA=…)"
                raise InUse(f"{self.path} is in use by {who}; stop it, or {choice}") from None
            lock.truncate(0)
            lock.write(f"{ProcessIdentity.of(os.getpid())}\n")
            lock.flush()
            self.withdraw()
            try:
                yield
            finally:
                self.withdraw()

    def publish(self, facts: dict[str, str]) -> None:
        """Tell other commands on this machine how to reach what is running."""
        self.write_private("running.json", json.dumps(facts))

    def published(self) -> dict[str, str] | None:
        try:
            facts: dict[str, str] = json.loads((self.path / "running.json").read_text())
        except FileNotFoundError:
            return None
        return facts

    def withdraw(self) -> None:
        (self.path / "running.json").unlink(missing_ok=True)

    def write_private(self, name: str, text: str) -> Path:
        """Whole or not at all, and readable for this account only."""
        target = self.path / name
        handle, draft = tempfile.mkstemp(prefix=f".{name}-", dir=self.path)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
        return target

    def kept_secret(self, name: str) -> str:
        """The secret of that name, made when it is first asked for."""
        target = self.path / name
        if not target.exists():
            self.write_private(name, secrets.token_urlsafe(32))
        return target.read_text().strip()

    @property
    def servers(self) -> Path:
        """What the servers own; a link if that had to be elsewhere."""
        return self.path / "servers"

    def place_servers(self, account: Account) -> tuple[Path, str | None]:
        """The directory for the servers' files, which `account` can reach, and a sentence about a choice just made.

        A link in the data directory records the choice, so that the next start finds the same one.
        """
        remark = None
        mode = 0o700 if account.uid is None else 0o711
        if not os.path.lexists(self.servers):
            self.servers.mkdir(mode=mode)
            if not account.can_enter(self.servers):
                self.servers.rmdir()
                elsewhere = self._elsewhere(account, mode)
                self.servers.symlink_to(elsewhere)
                remark = (
                    f"PostgreSQL keeps its files in {elsewhere}: {account.name}, who runs it, cannot reach {self.path}"
                )
        place = self.servers.resolve()
        if not place.is_dir():
            raise Refused(f"{self.servers} leads to {place}, which is gone; the data was there")
        if not account.can_enter(place):
            raise Refused(f"account {account.name} runs PostgreSQL and cannot reach {place}; let it pass through")
        return place, remark

    def _elsewhere(self, account: Account, mode: int) -> Path:
        for parent in ELSEWHERE:
            place = parent / f"roundtrip-{secrets.token_hex(6)}"
            try:
                place.mkdir(mode=mode)
            except OSError:
                continue
            if account.can_enter(place):
                return place
            place.rmdir()
        raise Refused(f"account {account.name} can reach neither {self.path} nor {ELSEWHERE[0]}")


@contextmanager
def socket_directory(place: Path, account: Account) -> Iterator[Path]:
    """Private to the account (and root), empty, and short enough for a socket's address."""
    directory = place / "run"
    _forget_sockets(directory)
    if len(os.fsencode(directory)) > LONGEST_SOCKET_DIRECTORY:
        directory.symlink_to(tempfile.mkdtemp(prefix="roundtrip-", dir="/tmp"))
    else:
        directory.mkdir(mode=0o700)
    account.give(directory)
    try:
        yield directory.resolve()
    finally:
        _forget_sockets(directory)


def _forget_sockets(directory: Path) -> None:
    """What a killed owner left has to go as well: a stale lock there can stop the next PostgreSQL."""
    if directory.exists():
        shutil.rmtree(directory.resolve())
    if directory.is_symlink():
        directory.unlink()
