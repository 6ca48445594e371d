"""One variant of the project with its services: the environment of its processes, and its publisher."""

import json
import os
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from example_site.embedded import die_with_parent

from .brokers import Broker
from .databases import Database
from .errors import NotMeasured

ROOT = Path(__file__).parents[1]
VARIANTS = ("bare", "results", "results-extended", "taskops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publisher says of its work: seconds per `.delay()`, in the order of the calls; CPU seconds of it all."""

    delays: list[float]
    cpu: float

    @property
    def median(self) -> float:
        return statistics.median(self.delays)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.delays)

    @property
    def p99(self) -> float:
        return sorted(self.delays)[int(len(self.delays) * 0.99)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    variant: str
    broker: Broker
    database: Database
    folder: Path
    taskops: dict[str, Any] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        own = {
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "BENCH_VARIANT": self.variant,
            "BENCH_BROKER_URL": self.broker.url,
            "BENCH_TASKOPS": json.dumps(self.database.taskops | self.taskops),
            "TMPDIR": str(self.folder),  # what falls back to a spool leaves nothing behind
        }
        return {**os.environ, **self.database.environment, **own}

    def start_fresh(self) -> None:
        """Empties broker and tables. No worker of the project may run."""
        self.broker.reset()
        self.database.reset()

    def publish(self, tasks: int, payload: str, *options: str) -> Published:
        """Publishes in a process of its own, and waits for its end."""
        said = self.run("benchmarks.publisher", "--tasks", str(tasks), "--payload", payload, *options)
        return Published(**json.loads(said.splitlines()[-1]))

    def run(self, module: str, *arguments: str) -> str:
        """The standard output of `python -m module` in this project. Raises NotMeasured where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env=self.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        if done.returncode:
            raise NotMeasured(f"expected {module} to succeed, it ended with {done.returncode}", done.stderr[-2000:])
        return done.stdout
