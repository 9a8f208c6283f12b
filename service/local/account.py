"""The account that runs the embedded servers: PostgreSQL refuses root, so root lends it another one."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.local.errors import Refused

WAYS_OUT = "set ROUNDTRIP_RUN_AS to an account for it, or ROUNDTRIP_DATABASE_URL to a server of your own"


@dataclass(frozen=True)
class Account:
    """`uid` is None for the account that we run as ourselves."""

    name: str
    uid: int | None = None
    gid: int | None = None

    @property
    def credentials(self) -> dict[str, Any]:
        """The arguments of subprocess that make a child run as this account."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_run(self, command: Sequence[str | Path]) -> bool:
        try:
            done = subprocess.run(
                command, cwd="/", capture_output=True, stdin=subprocess.DEVNULL, check=False, **self.credentials
            )
        except PermissionError:
            return False
        return done.returncode == 0

    def can_enter(self, directory: Path) -> bool:
        """Tried out instead of computed: access lists and security modules have a say in it too."""
        return self.can_run(["/bin/sh", "-c", 'cd "$0"', directory])

    def give(self, path: Path) -> None:
        """Make this account the owner of something that we just made."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def server_account(owned: Path) -> Account:
    """Who runs the servers. What already exists at `owned` goes on under the account that owns it."""
    if os.geteuid() != 0:
        return Account(name=str(os.geteuid()))
    if owned.exists() and (uid := owned.stat().st_uid) != 0:
        return _by_number(uid, owned)
    if configured := os.environ.get("ROUNDTRIP_RUN_AS"):
        return _configured(configured)
    for name in (os.environ.get("SUDO_USER"), "postgres", "nobody"):
        if name and (account := _by_name(name)):
            return account
    raise Refused(f"PostgreSQL does not run as root and there is no account to lend it: {WAYS_OUT}")


def _by_name(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return None if entry.pw_uid == 0 else Account(name, entry.pw_uid, entry.pw_gid)


def _configured(name: str) -> Account:
    if account := _by_name(name):
        return account
    raise Refused(f"ROUNDTRIP_RUN_AS names {name!r}, which must be an existing account other than root")


def _by_number(uid: int, owned: Path) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        # PostgreSQL looks its own account up and ends when there is none.
        raise Refused(f"{owned} belongs to number {uid}, which is no account here; give it to one") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
