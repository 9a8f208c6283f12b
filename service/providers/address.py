"""The addresses of one attempt, sealed so that only we can have made them.

The path of its webhook names the provider, the job, the attempt and the model, and ends in a seal over them. So the
receiver can turn a stranger away, knows whose signature has to be on it, and reads what the model gave, before it asks
the database for anything; and a webhook that outruns its own submit answer still finds its job. A GPU worker has a
second address, for what it says before the end.
"""

import hmac
from uuid import UUID

PREFIX = "/webhooks"
RUNS = f"{PREFIX}/gpu-runs"
FAL = "fal"


class Sealer:
    """Makes and checks 128-bit seals with the installation's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def _seal(self, *parts: object) -> str:
        message = "/".join(map(str, parts)).encode()
        return hmac.digest(self._secret, message, "sha256").hex()[:32]

    def _of_webhook(self, job_id: UUID, attempt: int, model: str, provider: str) -> str:
        # Of fal's the provider is not sealed, as none begins with a job's ID.
        return self._seal(*(() if provider == FAL else (provider,)), job_id, attempt, model)

    def path(self, job_id: UUID, attempt: int, model: str, provider: str = FAL) -> str:
        seal = self._of_webhook(job_id, attempt, model, provider)
        return f"{PREFIX}/{provider}/{job_id}/{attempt}/{seal}/{model}"

    def holds(self, job_id: UUID, attempt: int, model: str, seal: str, provider: str = FAL) -> bool:
        return hmac.compare_digest(self._of_webhook(job_id, attempt, model, provider).encode(), seal.encode())

    def runs_path(self, job_id: UUID, attempt: int) -> str:
        return f"{RUNS}/{job_id}/{attempt}/{self._seal('run', job_id, attempt)}"

    def holds_run(self, job_id: UUID, attempt: int, seal: str) -> bool:
        return hmac.compare_digest(self._seal("run", job_id, attempt).encode(), seal.encode())
