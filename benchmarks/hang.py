"""`.delay()` while the Redis of the journal stands still, and the broker does not."""

import signal
import statistics
from dataclasses import dataclass
from pathlib import Path

from .brokers import RedisBroker, redis_broker
from .databases import Database
from .project import Project

CALLS = 2000
# Ten seconds in all: long enough for the journal to try its Redis again while that still hangs.
PAUSE_SECONDS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Seconds of `.delay()`: the median before the SIGSTOP, and what the calls after it took."""

    median_before: float
    median_after: float
    p99_after: float
    longest_after: float


def measure(broker: RedisBroker, database: Database, folder: Path) -> Hang:
    with redis_broker(folder / "journal") as journal:
        project = Project(
            variant="taskops", broker=broker, database=database, folder=folder, taskops={"JOURNAL": journal.url}
        )
        project.start_fresh()
        try:
            pause = ("--pause", str(PAUSE_SECONDS), "--stops", str(journal.process.pid))
            delays = project.publish(CALLS, "100B", *pause).delays
        finally:
            journal.process.send_signal(signal.SIGCONT)
    before, after = delays[: CALLS // 2], sorted(delays[CALLS // 2 :])
    return Hang(
        median_before=statistics.median(before),
        median_after=statistics.median(after),
        p99_after=after[int(len(after) * 0.99)],
        longest_after=after[-1],
    )
