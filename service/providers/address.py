"""The webhook address of one attempt, sealed so that only we can have made it.

The path names the job, the attempt and the model, and ends in a seal over the three. The receiver can
therefore turn a stranger away, and read what the model gave, before it asks the database for anything;
and a webhook that outruns its own submit answer still finds its job.
"""

import hashlib
import hmac
from uuid import UUID

PREFIX = "/webhooks/fal"


class Sealer:
    """Makes and checks 128-bit seals with the installation's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _seal(self, job_id: UUID, attempt: int, model: str) -> str:
        message = f"{job_id}/{attempt}/{model}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]

    def path(self, job_id: UUID, attempt: int, model: str) -> str:
        return f"{PREFIX}/{job_id}/{attempt}/{self._seal(job_id, attempt, model)}/{model}"

    def holds(self, job_id: UUID, attempt: int, model: str, seal: str) -> bool:
        return hmac.compare_digest(self._seal(job_id, attempt, model).encode(), seal.encode())
