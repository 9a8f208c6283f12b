"""What every peer is given: where its servers are, what it is called by, and the one table that most of them keep."""

import os

DATABASE_URL = os.environ["DATABASE_URL"]
BROKER_URL = os.environ.get("BROKER_URL", "")
# The queue that jobs go to, and the address under which it reaches this peer.
QUEUE_URL = os.environ["QUEUE_URL"]
OWN_URL = os.environ.get("OWN_URL", "")

TABLE = """
CREATE TABLE IF NOT EXISTS requests (
    id uuid PRIMARY KEY,
    model text NOT NULL,
    input jsonb NOT NULL,
    state text NOT NULL,
    provider_request_id text,
    output jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    submitted_at timestamptz,
    completed_at timestamptz
)
"""


def submission(model: str, request_id: object) -> str:
    """Where a job is posted to, with the webhook that names it."""
    return f"{QUEUE_URL}/{model}?fal_webhook={OWN_URL}/webhooks/{request_id}"
