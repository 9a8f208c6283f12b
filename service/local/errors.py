"""Why `roundtrip up` did not start: one line for the operator, and the exit status that goes with it."""


class CannotStart(Exception):
    """A part could not be started, or did not stay up."""

    exit_status = 1


class Refused(CannotStart):
    """Nothing was started, because something outside has to change first."""

    exit_status = 2


class InUse(Refused):
    """The data directory has another owner."""
