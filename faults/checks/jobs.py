"""Every accepted job is kept, once, and ends, once, as it should; nobody ever sees it go back."""

from collections import Counter
from collections.abc import Iterator

from faults.evidence import Evidence, by_job
from faults.findings import Finding, finding
from faults.load import ENDED

RANK = {"gone": -1, "queued": 0, "submitted": 1, "in_progress": 2, **dict.fromkeys(ENDED, 3)}
GIVEN_UP_AFTER = 3


def accepted_jobs_lost(evidence: Evidence) -> Finding:
    stored = {row["id"] for row in evidence.rows["jobs"]}
    told = evidence.told()
    lost = (f"{number}: {job}" for number, ids in told.items() for job in ids if job not in stored)
    return finding("accepted jobs lost", lost, sum(map(len, told.values())))


def refused_for_ever(evidence: Evidence) -> Finding:
    """Every order is valid, so each has to be accepted in the end."""
    told = evidence.told()
    last = {each["number"]: each for each in evidence.history.get("register", ())}
    refused = (
        f"{number}: {last.get(number, {}).get('status')} {last.get(number, {}).get('words')}"
        for number in evidence.orders
        if number not in told
    )
    return finding("registrations never accepted", refused, len(evidence.orders))


def several_jobs_for_a_key(evidence: Evidence) -> Finding:
    """Both of what clients were told and of what is stored."""
    jobs: dict[int, set[str]] = {number: set(ids) for number, ids in evidence.told().items()}
    for row in evidence.rows["jobs"]:
        if (order := evidence.order_of(row)) is not None:
            jobs.setdefault(order.number, set()).add(row["id"])
    several = (f"{number}: {sorted(ids)}" for number, ids in jobs.items() if len(ids) > 1)
    return finding("idempotency keys with more than one job", several, len(jobs))


def without_an_end(evidence: Evidence) -> Finding:
    outcomes = evidence.by_job("outcomes")
    live = evidence.by_job("live_jobs")

    def broken() -> Iterator[str]:
        for job in evidence.rows["jobs"]:
            last = max(evidence.healed, job["created_at"]) + evidence.bound
            ends = outcomes.get(job["id"], [])
            if not ends:
                row = live.get(job["id"], [{}])[0]
                yield f"{job['id']} is {row.get('status')}, owed {row.get('duty')}, attempt {row.get('attempt')}"
            elif ends[0]["completed_at"] > last:
                yield f"{job['id']} ended {ends[0]['completed_at'] - last + evidence.bound:.1f} s after the faults"

    words = f"jobs without an end {evidence.bound:.0f} s after the faults"
    return finding(words, broken(), len(evidence.rows["jobs"]))


def several_ends(evidence: Evidence) -> Finding:
    """One outcome and no live row, or a live row and no outcome; and one end in the events."""
    ends = Counter(row["job_id"] for row in evidence.rows["outcomes"])
    live = Counter(row["job_id"] for row in evidence.rows["live_jobs"])
    told = Counter(row["job_id"] for row in evidence.rows["events"] if row["event"] in ENDED)

    def broken() -> Iterator[str]:
        for job in evidence.rows["jobs"]:
            job_id = job["id"]
            if ends[job_id] + live[job_id] != 1 or told[job_id] != ends[job_id]:
                yield f"{job_id}: {ends[job_id]} outcomes, {live[job_id]} live rows, {told[job_id]} events of an end"

    return finding("jobs with other than one end", broken(), len(evidence.rows["jobs"]))


def events_that_disagree(evidence: Evidence) -> Finding:
    last = {row["job_id"]: row for row in evidence.rows["events"]}

    def broken() -> Iterator[str]:
        for row in evidence.rows["outcomes"]:
            said = last.get(row["job_id"])
            if said is None or said["status"] != row["status"]:
                yield f"{row['job_id']} is {row['status']}, its last event says {said and said['status']}"

    return finding("last events that are not the outcome", broken(), len(evidence.rows["outcomes"]))


def reads_that_went_back(evidence: Evidence) -> Finding:
    """A read that began after another one ended shows no earlier status."""
    reads = evidence.history.get("read", ())

    def broken() -> Iterator[str]:
        for job_id, listed in by_job(reads).items():
            ended_first = sorted(listed, key=lambda read: float(read["at"]))
            seen, most = 0, -1
            for read in sorted(listed, key=lambda read: float(read["began"])):
                while ended_first[seen]["at"] < read["began"]:
                    most = max(most, RANK[ended_first[seen]["status"]])
                    seen += 1
                if RANK[read["status"]] < most:
                    yield f"{job_id} was read as {read['status']} later than a status of rank {most}"

    return finding("reads that went back", broken(), len(reads))


def results_that_changed(evidence: Evidence) -> Finding:
    """Of every job that was read after its end: one result, and the status that is stored."""
    stored = {row["job_id"]: row["status"] for row in evidence.rows["outcomes"]}
    ended = by_job([read for read in evidence.history.get("read", ()) if read["status"] in ENDED])

    def broken() -> Iterator[str]:
        for job_id, reads in ended.items():
            results = {read["result"] for read in reads}
            statuses = {read["status"] for read in reads} | {stored.get(job_id, "without an outcome")}
            if len(results) > 1 or len(statuses) > 1:
                yield f"{job_id}: {len(results)} results, {sorted(statuses)}"

    return finding("terminal results changed", broken(), len(ended))


def not_as_asked(evidence: Evidence) -> Finding:
    """The status is what the provider was told to make of the job, or what its client asked for."""
    jobs = evidence.order_by_job()
    doubts = Counter(row["job_id"] for row in evidence.rows["attempts"] if row["resubmitted_at"] is not None)
    given_up = 0

    def broken() -> Iterator[str]:
        nonlocal given_up
        for row in evidence.rows["outcomes"]:
            order = jobs.get(row["job_id"])
            if order is None or row["status"] in order.allowed:
                continue
            if row["error_type"] == "submission_unknown" and doubts[row["job_id"]] >= GIVEN_UP_AFTER:
                given_up += 1
                continue
            yield f"{row['job_id']} is {row['status']} ({row['error_type']}), asked {order.knobs}"

    found = list(broken())
    note = f"{given_up} given up after {GIVEN_UP_AFTER} resubmissions in doubt" if given_up else ""
    return finding(
        "jobs that ended otherwise than their provider was told", found, len(evidence.rows["outcomes"]), note
    )


def counted_otherwise(evidence: Evidence) -> Finding:
    """What `/v1/stats` holds, and what waits for it, are the jobs that ended: each of them once."""
    figures = evidence.rows["figures"]
    waiting = sum(row["waiting"] for row in figures)
    wrong = (
        f"{row['ended']} {row['status']}, {row['counted']} and {row['together']} counted, {row['waiting']} waiting"
        for row in figures
        if not row["counted"] == row["together"] == row["ended"] - row["waiting"]
    )
    counted = sum(row["counted"] for row in figures)
    return finding("ended jobs not counted once in the figures", wrong, counted, f"{waiting} wait for it")
