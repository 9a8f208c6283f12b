"""Start the real processes, drive jobs through them while a seeded schedule of faults runs, and check every promise."""

import argparse
import os
import random
import shutil
import sys
import time

from faults import clocks, report
from faults.plants import PLANTS
from faults.run import Run, Size, run
from faults.schedule import make_schedule
from service.local.errors import CannotStart
from service.local.stopping import until_stopped

FULL = Size(jobs=2_000, seconds=200.0, kills=42, forged=5_000, readers=3)
QUICK = Size(jobs=200, seconds=24.0, kills=8, forged=500, readers=3)
# A plant is there from the first job to the last, so that it needs few of them and little time.
PLANTED = Size(jobs=120, seconds=16.0, kills=4, forged=220, readers=3, bound=30.0)

INTERRUPTED = 130


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="run the schedule and the jobs of this number again")
    parser.add_argument("--jobs", type=int, help=f"how many ({FULL.jobs:,})")
    parser.add_argument("--kills", type=int, help=f"how many SIGKILLs ({FULL.kills})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.jobs} jobs, {QUICK.kills} kills, within 90 s")
    parser.add_argument("--plant", metavar="NAME", help="break the service on purpose: one, several by commas, or all")
    parser.add_argument("--schedule", action="store_true", help="print the schedule of the seed and end")
    parser.add_argument("--keep", action="store_true", help="keep the history of a good run, too")
    return parser.parse_args()


def size_of(options: argparse.Namespace) -> Size:
    size = PLANTED if options.plant else QUICK if options.quick else FULL
    changed = {name: value for name in ("jobs", "kills") if (value := getattr(options, name)) is not None}
    return Size(**{**vars(size), **changed})


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def must_have_clocks() -> bool:
    """Whether a run without faked clocks is a failure: where everything was installed for it."""
    return bool(os.environ.get("ROUNDTRIP_TEST_ALL") or os.environ.get("CI"))


def show(done: Run) -> None:
    parts = (report.header(done), report.promises(done), report.suffered(done), report.load(done))
    print("\n\n".join(parts), flush=True)


def run_once(seed: int, size: Size, *, keep: bool) -> int:
    if clocks.library() is None:
        words = "libfaketime is not here (scripts/install-test-servers): clocks that are off are LEFT OUT"
        tell(f"faults: {words}")
        if must_have_clocks():
            return 1
    tell(f"faults: seed {seed}")
    done = run(seed, size)
    show(done)
    if done.red:
        tell(f"faults: broken promises:\n{report.examples(done)}")
        tell(f"faults: what was seen is in {done.history.folder}; again: python -m faults {again(done)}")
        return 1
    tell("faults: no promise was broken")
    if keep:
        tell(f"faults: what was seen is in {done.history.folder}")
    else:
        shutil.rmtree(done.history.folder)
    return 0


def again(done: Run) -> str:
    return f"--seed {done.seed}" + (" --quick" if done.size == QUICK else "")


def plant(names: list[str], seed: int, size: Size) -> int:
    """Every plant has to turn its check red; 1 if one does not."""
    rows, missed = [("plant", "the check that has to see it", "broken", "also red")], 0
    for name in names:
        tell(f"faults: planting {name}")
        done = run(seed, size, (name,), PLANTS[name].needed)
        red = {each.promise: each.count for each in done.red}
        wanted = PLANTS[name].check(done.evidence).promise
        missed += wanted not in red
        others = ", ".join(promise for promise in red if promise != wanted)
        tell(report.examples(done))
        rows.append((name, wanted, str(red.get(wanted, 0)), others))
        if wanted in red:
            shutil.rmtree(done.history.folder)
        else:
            tell(f"faults: {name} was not seen; what was is in {done.history.folder}")
    print(report.table(rows), flush=True)
    return 1 if missed else 0


def main() -> int:
    options = read_options()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    size = size_of(options)
    if options.schedule:
        print("\n".join(map(str, make_schedule(seed, size.seconds, size.kills))))
        return 0
    names = list(PLANTS) if options.plant == "all" else options.plant.split(",") if options.plant else []
    if unknown := [name for name in names if name not in PLANTS]:
        tell(f"faults: no such plant: {', '.join(unknown)}; there are {', '.join(PLANTS)}")
        return 2
    status, began = INTERRUPTED, time.monotonic()
    with until_stopped():
        status = plant(names, seed, size) if names else run_once(seed, size, keep=options.keep)
    tell(f"faults: {time.monotonic() - began:.0f} s")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotStart as error:
        tell(f"faults: {error}")
        sys.exit(error.exit_status)
