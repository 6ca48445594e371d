"""System checks of the journal. Those that ask the network run only with `check --deploy`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from django.core import checks
from django.core.checks import CheckMessage, Error

from . import journal
from .journal.base import Source
from .journal.spool.folder import check_private

OLDEST_REDIS = (6, 2)
UNKNOWN = "?"


@runtime_checkable
class Informed(Protocol):
    """A source that tells about its server; "?" for what it may not know."""

    def facts(self) -> Mapping[str, str]: ...


def check_spool(**_kwargs: Any) -> list[CheckMessage]:
    """Makes no folder: one that belongs to whoever runs the checks would be refused to the workers."""
    try:
        problem = "" if journal.kind() == "direct" else _problem(journal.spool_path())
    except OSError as error:
        problem = str(error)
    except Exception:  # noqa: BLE001 settings that can't be used: other checks say so
        return []
    if not problem:
        return []
    return [
        checks.Warning(
            f"The spool can't be written: {problem}.",
            hint="Set TASKOPS['SPOOL_DIR'] to a folder of the user that your processes run as.",
            id="taskops.W005",
        )
    ]


def check_journal(**_kwargs: Any) -> list[CheckMessage]:
    try:
        sources = journal.sources()
    except Exception as error:  # noqa: BLE001 each library has its own for an address that it can't use
        return [
            Error(
                f"TASKOPS['JOURNAL'] can't be used: {type(error).__name__}.",
                hint="Name 'redis' only where the broker or the result backend is one, else the URL of a Redis.",
                id="taskops.E006",
            )
        ]
    return [message for source in sources for message in _messages(source)]


def _problem(folder: Path) -> str:
    """Why the user of this process can't keep files in `folder`, which need not exist; "" where all is well. Raises
    OSError for one that can't be trusted."""
    if os.path.lexists(folder):
        check_private(folder)
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable for user {os.geteuid()}"


def _messages(source: Source) -> Iterator[CheckMessage]:
    try:
        refused = source.backlog().refused
        facts = source.facts() if isinstance(source, Informed) else {}
    except Exception as error:  # noqa: BLE001 whatever its client raises
        yield _unreachable(source, error)
        return
    if refused:
        yield Error(
            f"The {source.name} journal is not for this database: {refused}.",
            hint="Until then nothing that is recorded there is applied here.",
            id="taskops.E007",
        )
    if facts:
        yield from _server(facts)


def _unreachable(source: Source, error: Exception) -> CheckMessage:
    return checks.Warning(
        f"The {source.name} journal can't be reached: {type(error).__name__}.",
        hint="Tasks go on. What is recorded meanwhile waits in the files of each host, as far as there is room.",
        id="taskops.W004",
    )


def _server(facts: Mapping[str, str]) -> Iterator[CheckMessage]:
    version, policy = facts["redis_version"], facts["maxmemory_policy"]
    if _is_older(version):
        yield Error(
            f"The journal needs Redis {'.'.join(map(str, OLDEST_REDIS))} or newer, this is {version}.",
            hint="Name a newer Redis in TASKOPS['JOURNAL'], or set it to 'spool'.",
            id="taskops.E008",
        )
    if facts["maxmemory"] not in ("0", "", UNKNOWN) and policy.startswith("allkeys-"):
        yield checks.Warning(
            f"The journal's Redis may drop what waits there: maxmemory-policy is {policy}.",
            hint="Set maxmemory-policy to noeviction, or to one of volatile-*: the journal's keys never expire.",
            id="taskops.W006",
        )
    if facts["aof_enabled"] == "0" and facts["save"] == "":
        yield checks.Warning(
            "The journal's Redis keeps nothing on disk: what waits there is lost when it restarts.",
            hint="Switch on appendonly or save. Without, runs whose events were lost stay in the state they had.",
            id="taskops.W007",
        )


def _is_older(version: str) -> bool:
    numbers: Sequence[str] = version.split(".")[:2]
    return all(number.isdecimal() for number in numbers) and tuple(map(int, numbers)) < OLDEST_REDIS
