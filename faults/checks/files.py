"""What a result names is in the store, whole; nothing else is."""

from collections.abc import Iterator

from faults.evidence import Evidence
from faults.findings import Finding, finding


def artifacts_not_whole(evidence: Evidence) -> Finding:
    """What a result names is in the store with its size and hash, and the API gives just that."""
    blobs = {row["sha256"]: row["size"] for row in evidence.rows["blobs"]}
    named = [row for row in evidence.rows["artifacts"] if row["sha256"]]

    def broken() -> Iterator[str]:
        for row in named:
            place, stored = (row["job_id"], row["kind"], row["index"]), evidence.files.get(row["sha256"])
            if stored is None or stored.sha256 != row["sha256"]:
                yield f"{place}: {row['sha256'][:12]} is {'not' if stored is None else 'other bytes'} in the store"
            elif not stored.size == row["file_size"] == blobs.get(row["sha256"]):
                said = f"{row['file_size']} in its row, {blobs.get(row['sha256'])} in its blob's"
                yield f"{place}: {stored.size} bytes, {said}"
            elif evidence.served.get(place, row["sha256"]) != row["sha256"]:
                yield f"{place}: the API gave {evidence.served[place][:12]}"

    return finding("artifacts named in a result but not whole", broken(), len(named))


def files_unaccounted_for(evidence: Evidence) -> Finding:
    rows = evidence.rows["artifacts"]
    owed = len(evidence.rows["copies"])
    lost = (
        f"{row['job_id']} {row['kind']} {row['index']}" for row in rows if not row["sha256"] and not row["copy_error"]
    )
    failed = sum(not row["sha256"] for row in rows)
    return finding(
        "files neither stored nor with a reason",
        lost,
        len(rows),
        f"{failed} with a reason, {owed} of them to be tried again",
    )


def parts_left(evidence: Evidence) -> Finding:
    """Of what killed processes had begun to write, when it had grown old and a worker had started again."""
    return finding("unfinished files left in the store", evidence.parts_left, len(evidence.files))
