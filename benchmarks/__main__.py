"""`make bench`, or `python -m benchmarks`: measures side by side, with servers of its own, and prints Markdown."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from example_site.embedded import ServiceUnavailable

from . import drain, hang, memory, prune, report, requeue, speed
from .brokers import Broker, RedisBroker, redis_broker
from .databases import DATABASES, Database, running_database
from .errors import NotMeasured
from .payloads import PAYLOADS
from .project import VARIANTS
from .rabbitmq import rabbit_broker
from .report import Figures

PARTS = ("speed", "rabbitmq", "hang", "memory", "drain", "prune", "requeue")


def main() -> int:
    """0: all that was asked for has figures; 1: something has none; 130: interrupted."""
    options = _options()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    # Whatever the developer's own servers hold, it is not for us to empty.
    for name in ("REDIS_URL", "DATABASE_URL"):
        os.environ.pop(name, None)
    figures = Figures()
    try:
        with tempfile.TemporaryDirectory(prefix="taskops-bench-", ignore_cleanup_errors=True) as folder:
            _measure(options, Path(folder), figures)
    except KeyboardInterrupt:
        return 130
    text = report.markdown(figures)
    print(text)
    if options.write:
        report.write(text)
    return 1 if figures.missing else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=20_000, help="of each run of speed and rabbitmq")
    parser.add_argument("--memory-tasks", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=60_000, help="for the drain alone")
    parser.add_argument("--rows", type=int, default=200_000, help="for prune")
    parser.add_argument("--letters", type=int, default=10_000, help="for requeue")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="beside each other, in speed")
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES[:2], help="of speed")
    parser.add_argument("--payloads", nargs="+", choices=PAYLOADS, default=list(PAYLOADS))
    parser.add_argument("--write", action="store_true", help="also into benchmarks/README.md")
    return parser.parse_args()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _measure(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    parts: dict[str, Callable[[], None]] = {
        "speed": lambda: _speed(options, folder, figures),
        "rabbitmq": lambda: _rabbitmq(options, folder, figures),
        "hang": lambda: _hang(folder, figures),
        "memory": lambda: _memory(options, folder, figures),
        "drain": lambda: _drain(options, folder, figures),
        "prune": lambda: _prune(options, folder / "prune", figures),
        "requeue": lambda: _requeue(options, folder, figures),
    }
    for part in options.only:
        try:
            parts[part]()
        except NotMeasured as error:
            figures.missing.append(f"{part}: {error}")
            print(figures.missing[-1], error.detail, sep="\n", file=sys.stderr)
        except ServiceUnavailable as error:
            figures.missing.append(f"{part}: a server that it needs is not to be had")
            print(part, error, sep=": ", file=sys.stderr)


def _speed(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    for name in options.databases:
        with _services(folder, figures, name) as (broker, database):
            _side_by_side(options, options.variants, broker, database, folder, figures)


def _rabbitmq(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    with rabbit_broker(folder / "rabbitmq") as broker, running_database("postgresql", folder) as database:
        figures.versions |= {"RabbitMQ": broker.version, database.name: database.version}
        _side_by_side(options, ("bare", "taskops"), broker, database, folder, figures)


def _side_by_side(
    options: argparse.Namespace,
    variants: tuple[str, ...],
    broker: Broker,
    database: Database,
    folder: Path,
    figures: Figures,
) -> None:
    for payload in options.payloads:
        case = speed.Case(broker=broker.name, database=database.name, payload=payload, tasks=options.tasks)
        result = speed.measure(case, variants, options.rounds, broker, database, folder)
        figures.speed.append(result)
        where = f"{case.broker}, {case.database}, {case.payload}"
        figures.missing += [f"{where}, {variant}: {why}" for variant, why in result.failed.items()]


def _hang(folder: Path, figures: Figures) -> None:
    with _services(folder, figures) as (broker, database):
        figures.hang = hang.measure(broker, database, folder)


def _memory(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    with _services(folder, figures) as (broker, database):
        for variant in ("bare", "taskops"):
            figures.memory.append(memory.measure(variant, options.memory_tasks, broker, database, folder))


def _drain(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    with _services(folder, figures) as (broker, database):
        for payload in options.payloads:
            for order in drain.ORDERS:
                drained = drain.measure(options.events, payload, order, broker, database, folder)
                figures.drained.append(drained)


def _prune(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    folder.mkdir()  # a SQLite of its own: the other parts have filled theirs
    for name in options.databases:
        with _services(folder, figures, name) as (broker, database):
            figures.pruned += [prune.measure(options.rows, kind, broker, database, folder) for kind in prune.KINDS]


def _requeue(options: argparse.Namespace, folder: Path, figures: Figures) -> None:
    with _services(folder, figures) as (broker, database):
        figures.requeued += [requeue.measure(options.letters, way, broker, database, folder) for way in requeue.WAYS]


@contextmanager
def _services(folder: Path, figures: Figures, name: str = "postgresql") -> Iterator[tuple[RedisBroker, Database]]:
    with redis_broker(folder / "redis") as broker, running_database(name, folder) as database:
        figures.versions |= {"Redis server": broker.version, database.name: database.version}
        yield broker, database


if __name__ == "__main__":
    sys.exit(main())
