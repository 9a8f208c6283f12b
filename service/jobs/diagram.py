"""`docs/job-states.md`, drawn from `lifecycle.py`: `python -m service.jobs.diagram > docs/job-states.md`."""

import sys

from service.jobs.lifecycle import ENDED, FAL_STATUS, MOVES, AttemptState, Status

MEANING = {
    Status.QUEUED: "registered and durable; no provider is known to have it",
    Status.SUBMITTED: "a provider took it and gave it a request ID; for a GPU worker, its message is out",
    Status.IN_PROGRESS: "the provider said that it is being worked on",
    Status.COMPLETED: "the model's output is kept",
    Status.FAILED: "the model, the provider or a deadline ended it; the words are kept",
    Status.CANCELLED: "somebody asked for it, and the provider stopped it, never had it, or left that in doubt; or an "
    "administrator forced it",
}
ATTEMPTS = {
    AttemptState.SUBMITTING: "written before the first byte goes out",
    AttemptState.SUBMITTED: "the provider's answer is kept",
    AttemptState.REFUSED: "the provider did not take it, for sure; the job is offered again",
    AttemptState.BLOCKED: "the provider takes nothing from this account; it is paused and the job waits",
    AttemptState.AMBIGUOUS: "the answer was lost; its webhook may still come",
    AttemptState.ABANDONED: "no webhook came in time; the job was submitted again",
    AttemptState.SUPERSEDED: "the job ended without it, and the provider is asked to stop it; or it went to another "
    "provider",
    AttemptState.COMPLETED: "its news ended the job",
    AttemptState.FAILED: "its news ended the job",
    AttemptState.CANCELLED: "its news ended the job",
}


def markdown() -> str:
    """The whole page."""
    lines = [
        "# The states of a job",
        "",
        "Drawn from `service/jobs/lifecycle.py` by `python -m service.jobs.diagram`; a test keeps it current.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    for event, move in MOVES.items():
        sources = [source.value for source in move.sources] or ["[*]"]
        lines += [f"    {source} --> {move.target.value}: {event.value}" for source in sources]
    lines += [f"    {status.value} --> [*]" for status in ENDED]
    lines += ["```", "", "| status | fal's word | meaning |", "|---|---|---|"]
    lines += [f"| `{status.value}` | `{FAL_STATUS[status]}` | {meaning} |" for status, meaning in MEANING.items()]
    lines += ["", "An attempt is one submission of the job to one provider:", "", "| state | meaning |", "|---|---|"]
    lines += [f"| `{state.value}` | {meaning} |" for state, meaning in ATTEMPTS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
