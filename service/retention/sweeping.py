"""What a worker does when the time of something is over: one batch after the other, as long as there is any."""

from collections.abc import Sequence

from service.context import Context
from service.pump import Pump
from service.retention import blobs, rules
from service.retention.blobs import Unreferenced
from service.retention.rules import Batch


class Remover:
    """Removes what the rules say, and then the files that nothing refers to any more."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failed = False
        self.pump = Pump("remove", self._take, self._remove, slots=1)

    async def _take(self, limit: int) -> Sequence[Batch | Unreferenced]:
        # What failed would be taken again at once; it is left until the pump is woken the next time.
        if self._failed:
            self._failed = False
            return []
        found = await rules.next_batch(self._context.db) or await blobs.take_unreferenced(self._context.db)
        return [found] if found else []

    async def _remove(self, what: Batch | Unreferenced) -> None:
        self._failed = True
        if isinstance(what, Batch):
            await rules.carry_out(self._context.db, what)
        else:
            await blobs.delete_unreferenced(self._context.db, self._context.storage.delete, what)
        self._failed = False
