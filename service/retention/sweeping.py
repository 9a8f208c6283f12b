"""What a worker does when the time of something is over: a batch of each rule in turn, as long as any has one."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import structlog

from service.artifacts.storage import Storage
from service.context import Context
from service.db import Busy, Database, DatabaseAway
from service.pump import Pump
from service.retention import blobs, rules
from service.retention.rules import Batch, Rule

log = structlog.get_logger()


class Turn(Protocol):
    async def step(self) -> bool:
        """Do what is next. False: there is nothing left, or it is to wait for the next sweep."""
        ...


class Walk:
    """A rule on its way. A batch that fails is tried in halves; a job that fails alone is postponed."""

    def __init__(self, db: Database, rule: Rule) -> None:
        self._db = db
        self._rule = rule
        self._at_most = rules.AT_A_TIME

    async def step(self) -> bool:
        batch = await rules.next_batch(self._db, self._rule, self._at_most)
        if batch is None:
            return False
        try:
            await rules.carry_out(self._db, batch)
        except Busy:
            log.info("jobs are counted for long; a rule waits for the next sweep", tenant_id=str(self._rule.tenant_id))
            return False
        except Exception as error:  # Whatever it is, it keeps no other job from it, and no other rule.
            await self._failed(batch, error)
        else:
            self._at_most = min(2 * self._at_most, rules.AT_A_TIME)
        return True

    async def _failed(self, batch: Batch, error: Exception) -> None:
        why, jobs = repr(error.__cause__ or error), len(batch.looked_at)
        of = {"tenant_id": str(batch.rule.tenant_id), "model": batch.rule.model, "part": batch.rule.part}
        log.warning("a rule was not carried out", jobs=jobs, first=str(batch.looked_at[0]), error=why, **of)
        self._at_most = max(1, jobs // 2)
        if jobs == 1:
            await rules.postpone(self._db, batch, why)


# So many files in a row that cannot be deleted are the store's fault, which would hold up the rules.
MOST_FAILURES = 3


class Files:
    """Stored files that nothing refers to any more. One that cannot be deleted is taken again some minutes later."""

    def __init__(self, db: Database, storage: Storage) -> None:
        self._db = db
        self._storage = storage
        self._failures = 0

    async def step(self) -> bool:
        taken = await blobs.take_unreferenced(self._db)
        for each in await blobs.spare(self._db, taken):
            try:
                await blobs.delete_unreferenced(self._db, self._storage.delete, each)
            except DatabaseAway:
                raise
            except Exception as error:  # Whatever it is, it keeps no other file.
                log.warning("a file could not be deleted", sha256=each.sha256, error=repr(error))
                self._failures += 1
                if self._failures == MOST_FAILURES:
                    return False
            else:
                self._failures = 0
        return bool(taken)


class Remover:
    """Removes what the rules say, and the files that nothing refers to any more: each of them a batch in its turn."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turns: deque[Turn] = deque()
        self._is_under_way = False
        self.pump = Pump("remove", self._take, self._step, slots=1)

    async def _take(self, limit: int) -> Sequence[Turn]:
        """Whose turn it is. A turn that fails has no other before the pump is woken the next time."""
        if not self._is_under_way:
            db = self._context.db
            walks = [Walk(db, rule) for rule in await rules.every_rule(db)]
            self._turns = deque([*walks, Files(db, self._context.storage)])
        self._is_under_way = bool(self._turns)
        return [self._turns.popleft()] if self._turns else []

    async def _step(self, turn: Turn) -> None:
        if await turn.step():
            self._turns.append(turn)
