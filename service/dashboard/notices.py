"""What is said on a page after something was done. An address names it; nothing of an address is shown itself."""

NOTICES = {
    "cancel": "Its end was asked for. What comes of it shows here.",
    "force": "It was ended. The provider is asked to stop what it may have of it.",
    "retry": "This is the new job; it repeats the one that failed or was cancelled.",
    "redeliver": "Its client is told once more, with the same ID and the same bytes.",
    "hold": "It is on hold: nothing of it is removed.",
    "release": "The hold is over; its tenant's rules of retention hold for it again.",
    "applied": "The report was applied: it ended its job.",
    "not-applied": "Nothing was applied.",
    "no-such-job": "No job has that ID.",
    "nothing": "It had ended before; nothing was changed.",
}
