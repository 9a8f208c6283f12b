"""The parts of a job that can be removed, and what stays of them."""

from enum import StrEnum

# A job that is registered with this tag is on hold from its beginning.
HOLD = "hold"


class Part(StrEnum):
    INPUT = "input"
    RESULT = "result"
    FILES = "files"
    EVIDENCE = "evidence"
    # All of it: as if it had never been registered, but for the figures of /v1/stats.
    JOB = "job"


REMOVABLE = (Part.INPUT, Part.RESULT, Part.FILES, Part.EVIDENCE)


class Keep(StrEnum):
    """What stays when the time is over. `all` makes an exception for one model from a rule for all."""

    ALL = "all"
    HASH = "hash"
    NOTHING = "nothing"
