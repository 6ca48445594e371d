"""The folder of the spool: where it is, whether it is ours alone, how full it is, and what was dropped for that."""

import os
import re
import stat
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from ...conf import conf
from ...exceptions import TaskOpsError
from ..descriptors import close_file, open_file
from .segment_files import WrittenSegment
from .segments import ForeignFile

SEGMENT_NAME = re.compile(r"\d{20}-\d+-[0-9a-f]{8}\.spool")
DROPPED_NAME = "dropped"
DROPPED = struct.Struct("<Q64s")  # the total, and the segment that was counted last


class RefusedFolder(TaskOpsError, PermissionError):
    """Somebody else could read or change what this folder holds."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder = folder
        self.problem = problem
        super().__init__(f"{folder}: expected a folder of user {os.geteuid()} alone, {problem}")


def folder_of(identity: str) -> Path:
    """Where this user's processes keep the events of the database named `identity`. It need not exist."""
    base = conf.SPOOL_DIR
    return _folder(base or f"{tempfile.gettempdir()}/taskops-{os.geteuid()}", conf.JOURNAL_PREFIX, identity)


@lru_cache(maxsize=64)
def _folder(base: str, prefix: str, identity: str) -> Path:
    name = re.sub(r"[^\w.-]", "_", prefix, flags=re.ASCII)[:64]
    return Path(base) / f"{name}-{sha256(identity.encode()).hexdigest()[:12]}"


def make_private(folder: Path) -> None:
    """Makes the folder with mode 0700 where there is none. Raises what `check_private` raises."""
    for each in _private(folder):
        with suppress(FileExistsError):
            each.mkdir(mode=0o700, parents=True)
        _check_private(each)


def check_private(folder: Path) -> None:
    """Raises RefusedFolder for a folder that is not ours alone, other OSErrors where there is none."""
    for each in _private(folder):
        _check_private(each)


def _private(folder: Path) -> tuple[Path, ...]:
    """The one above too, unless the project has named it: a volume of a container may be anybody's."""
    return (folder,) if conf.SPOOL_DIR else (folder.parent, folder)


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise RefusedFolder(folder, "it is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise RefusedFolder(folder, "it is no folder")
    if found.st_uid != os.geteuid():
        raise RefusedFolder(folder, f"it belongs to user {found.st_uid}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedFolder(folder, f"others may write to it (mode {stat.S_IMODE(found.st_mode):o})")


def segments(folder: Path) -> Mapping[str, int]:
    """The sizes of the segments in bytes, by name, the oldest first. Raises OSError where there is no folder."""
    sizes = {}
    with os.scandir(folder) as found:
        for file in found:
            if SEGMENT_NAME.fullmatch(file.name):
                with suppress(FileNotFoundError):  # the reader has just deleted it
                    sizes[file.name] = file.stat(follow_symlinks=False).st_size
    return dict(sorted(sizes.items()))


def usage(folder: Path) -> tuple[int, int]:
    """How many segments there are, and their bytes; what has been applied counts until its file is deleted."""
    sizes = segments(folder)
    return len(sizes), sum(sizes.values())


def unread(folder: Path) -> int:
    """The bytes of the segments that have not been applied. Opens each file. Raises OSError as `segments` does."""
    return sum(_unread(folder / name, size) for name, size in segments(folder).items())


def _unread(path: Path, size: int) -> int:
    try:
        with WrittenSegment(path, read_only=True) as segment:
            header = segment.header()
    except FileNotFoundError:
        return 0
    except (OSError, ForeignFile):
        return size
    return size - header.consumed if header else size


def dropped(folder: Path) -> tuple[int, str]:
    """How many events the segments deleted so far had no room for, and which of them was counted last."""
    try:
        count, name = DROPPED.unpack((folder / DROPPED_NAME).read_bytes())
    except (FileNotFoundError, struct.error):
        return 0, ""
    return count, name.rstrip(b"\0").decode("ascii", "replace")


def start_counting(folder: Path) -> None:
    """Makes room for the count of the dropped while the disk has some. Raises OSError."""
    if not (folder / DROPPED_NAME).exists():
        add_dropped(folder, 0, "")


def add_dropped(folder: Path, count: int, name: str) -> None:
    """Counts what segment `name` dropped, once though it is called again after a crash. Raises OSError."""
    total, last = dropped(folder)
    if name and name == last:
        return
    descriptor = open_file(folder / DROPPED_NAME, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(descriptor, DROPPED.pack(total + count, name.encode("ascii")), 0)
    finally:
        close_file(descriptor)
