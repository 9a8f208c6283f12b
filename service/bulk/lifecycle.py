"""What a bulk action may do, how far it is, and what may come of one of its jobs. Pure."""

from enum import StrEnum

from service.jobs.lifecycle import LIVE, Status


class BulkVerb(StrEnum):
    RETRY = "retry"
    CANCEL = "cancel"


class BulkState(StrEnum):
    RUNNING = "running"
    ABORTING = "aborting"  # nothing more is begun; what came of the last jobs is being looked up
    DONE = "done"
    ABORTED = "aborted"  # what was done by then stays done


class BulkOutcome(StrEnum):
    PLANNED = "planned"  # taken, and nothing is known of it yet
    DONE = "done"
    SKIPPED = "skipped"  # there was nothing to do, and `reason` says why
    FAILED = "failed"


UNDER_WAY = (BulkState.RUNNING, BulkState.ABORTING)

# The jobs that an action is for; others that its filter means are not looked at.
STATUSES: dict[BulkVerb, tuple[Status, ...]] = {
    BulkVerb.RETRY: (Status.FAILED, Status.CANCELLED),
    BulkVerb.CANCEL: LIVE,
}
