"""The spool as processes write it: real files, real forks, full disks."""

import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil
import pytest
from pytest_django import Settings

from django_taskops.events import Event, EventKind
from django_taskops.journal.bounds import is_bad_ending
from django_taskops.journal.codec import decode
from django_taskops.journal.spool import SpoolJournal
from django_taskops.journal.spool.folder import RefusedFolder, folder_of, make_private, usage
from tests.events import BEAT, Story, read_event
from tests.journal.spooling import (
    Remembering,
    child,
    files,
    in_child,
    new_journal,
    new_source,
    read_all,
    the_folder,
    wait_for_files,
)
from tests.workers import eventually

KIB = 1024


@pytest.fixture(autouse=True)
def spool_dir(tmp_path: Path, settings: Settings) -> Path:
    settings.TASKOPS = {**settings.TASKOPS, "SPOOL_DIR": str(tmp_path / "spool")}
    return tmp_path / "spool"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets that many seconds pass at once."""
    real, skipped = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + skipped[0])

    def skip(seconds: float) -> None:
        skipped[0] += seconds

    return skip


def direct_of(journal: SpoolJournal) -> Remembering:
    assert isinstance(journal._direct, Remembering)
    return journal._direct


def set_bound(settings: Settings, limit: int) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "SPOOL_MAX_BYTES": limit}


# What is written


def test_events_come_back_as_they_were_in_their_order() -> None:
    journal, story = new_journal(), Story()
    told = [story.published(), story.started(), story.succeeded(result={"total": 3})]
    for event in told:
        journal.append(event)

    entries = new_source().read(limit=10, wait=0)
    positions = [entry.position for entry in entries]

    assert [decode(entry.data, position=event.position) for entry, event in zip(entries, told, strict=True)] == told
    assert positions == sorted(set(positions))
    assert abs((positions[0] >> 20) / 1000 - time.time()) < 60


def test_many_threads_lose_and_mix_up_nothing() -> None:
    journal = new_journal()
    stories = [Story() for _ in range(2000)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda story: journal.append(story.published()), stories))

    assert sorted(read_all()) == sorted(story.task_id for story in stories)


def test_a_file_is_private_and_left_for_another_when_it_is_long() -> None:
    journal = new_journal()
    for _ in range(5):
        journal.append(Story().published(envelope=b"x" * 300 * KIB))

    assert [path.stat().st_mode & 0o777 for path in files()] == [0o600, 0o600]
    assert the_folder().stat().st_mode & 0o777 == 0o700
    assert len(read_all()) == 5


def test_a_file_that_was_deleted_is_not_written_to(later: Callable[[float], None]) -> None:
    journal = new_journal()
    journal.append(Story().started())
    shutil.rmtree(the_folder())
    later(1.1)
    journal.append(story := Story().started())

    assert read_all() == [story.task_id]


def test_a_file_that_was_applied_to_its_end_makes_room(later: Callable[[float], None]) -> None:
    journal, source = new_journal(), new_source()
    journal.append(Story().published(envelope=b"x" * 20 * KIB))
    read_all(source)
    assert len(files()) == 1
    later(1.1)
    journal.append(Story().started())
    read_all(source)

    later(1.1)
    assert source.read(limit=1, wait=0) == []
    assert [path.stat().st_size < KIB for path in files()] == [True]


# Forks and signals


def test_a_forked_child_writes_a_file_of_its_own() -> None:
    journal = new_journal()
    mine, childs = [Story() for _ in range(50)], [Story() for _ in range(50)]
    journal.append(mine[0].started())
    (parents_file,) = files()

    def work() -> None:
        assert str(parents_file) not in [file.path for file in psutil.Process().open_files()]
        for story in childs:
            journal.append(story.started())

    with child(work) as pid:
        for story in mine[1:]:
            journal.append(story.started())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert len(files()) == 2
    assert read_all() == [story.task_id for story in [*mine, *childs]]


def test_what_a_parent_dropped_is_not_counted_by_its_child(settings: Settings) -> None:
    set_bound(settings, 100)
    journal = new_journal()
    journal.append(Story().started())
    assert journal.dropped == {EventKind.STARTED: 1}

    def work() -> None:
        assert not journal.dropped

    in_child(work)


def test_threads_that_write_while_others_fork_leak_no_file_into_the_children() -> None:
    journal, stop = new_journal(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            journal.append(Story().published(envelope=b"x" * 300 * KIB))
            read_all()

    def work() -> None:
        assert [file.path for file in psutil.Process().open_files() if "spool" in file.path] == []

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write)
        try:
            for _ in range(30):
                in_child(work)
        finally:
            stop.set()
        writing.result()


def test_no_lock_outlives_a_killed_parent_in_its_child(later: Callable[[float], None]) -> None:
    told, tell = os.pipe()

    def parent() -> None:
        new_journal().append(Story().started())
        assert new_source().hold()
        if os.fork() == 0:
            os.write(tell, str(os.getpid()).encode())
        signal.pause()

    with child(parent):
        grandchild = psutil.Process(int(os.read(told, 20)))
    try:
        source = new_source()
        assert source.hold()
        assert len(read_all(source)) == 1
        assert files() == []
    finally:
        grandchild.kill()
        source.release()


def test_a_signal_handler_may_append_while_the_thread_it_interrupts_does() -> None:
    journal, struck = new_journal(), 0

    def strike(_number: int, _frame: FrameType | None) -> None:
        nonlocal struck
        struck += 1
        journal.append(Story().failed())

    with every_moment(strike):
        told = 0
        while struck < 100:
            journal.append(Story().started())
            told += 1

    assert len(set(read_all())) == told + struck


def test_a_soft_time_limit_may_strike_anywhere_and_goes_through() -> None:
    class SoftTimeLimit(Exception):
        pass

    journal, kept, strikes, inside = new_journal(), set(), 0, False

    def strike(_number: int, _frame: FrameType | None) -> None:
        nonlocal inside
        if inside:
            inside = False
            raise SoftTimeLimit

    with every_moment(strike):
        while strikes < 100:
            event = Story().started()
            try:
                inside = True
                journal.append(event)
                inside = False
            except SoftTimeLimit:
                strikes += 1
            else:
                kept.add(event.task_id)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(journal.append, event := Story().started()).result(10)
    assert kept | {event.task_id} <= set(read_all())


def test_what_a_soft_time_limit_cuts_off_goes_on_to_the_direct_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    class SoftTimeLimit(Exception):
        pass

    def strike(*_args: Any) -> NoReturn:
        raise SoftTimeLimit

    journal, event = new_journal(), Story().started()
    with monkeypatch.context() as struck:
        struck.setattr(os, "pwrite", strike)
        with pytest.raises(SoftTimeLimit):
            journal.append(event)

    assert direct_of(journal).events == [event]


def test_a_file_whose_last_record_was_interrupted_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been written, and read: nothing may take its place."""

    def interrupted(*args: Any) -> NoReturn:
        write(*args)
        raise KeyboardInterrupt

    journal, write = new_journal(), os.pwrite
    journal.append(Story("a").started())
    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append(Story("b").started())
    monkeypatch.setattr(os, "pwrite", write)
    journal.append(Story("c").started())

    assert read_all() == ["a", "b", "c"]
    assert len(files()) == 1


@contextmanager
def every_moment(strike: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside of it, `strike` handles a signal that comes about every millisecond of computing."""
    before = signal.signal(signal.SIGVTALRM, strike)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.0007)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# Who collects


def test_where_nobody_collects_events_go_straight_on() -> None:
    journal = new_journal(collected=False)
    journal.append(event := Story().started())

    assert direct_of(journal).events == [event]
    assert journal.deferring()
    assert not the_folder().exists()


def test_where_somebody_collects_events_go_to_a_file(later: Callable[[float], None]) -> None:
    journal, source = new_journal(collected=False), new_source()
    assert journal.deferring()
    assert source.hold()
    later(5.1)

    assert not journal.deferring()
    journal.append(Story().started())
    assert len(read_all(source)) == 1

    source.release()
    later(5.1)
    journal.append(event := Story().started())
    assert direct_of(journal).events == [event]


def test_a_child_expects_the_collector_that_its_parent_expects() -> None:
    journal = new_journal()

    in_child(lambda: journal.append(Story().started()))

    assert len(read_all()) == 1


def test_claims_are_made_in_the_database_and_a_process_that_ends_leaves_its_file() -> None:
    journal = new_journal()
    journal.append(Story().started())
    journal.flush()

    assert direct_of(journal).flushed
    assert journal.claim("key", "me") == "key is me's"
    assert len(read_all()) == 1
    assert files() == []


# Bounds


def test_beyond_three_quarters_only_bad_endings_are_kept_and_then_they_go_straight_on(settings: Settings) -> None:
    set_bound(settings, 64 * KIB)
    journal = new_journal()
    for _ in range(400):
        journal.append(Story().started())
    happy = usage(the_folder())[1]
    endings = [Story().failed() for _ in range(200)]
    for event in endings:
        journal.append(event)

    kept, direct = read_all(), {event.subject for event in direct_of(journal).events}
    assert 46 * KIB < happy <= 49 * KIB
    assert journal.dropped.total() > 100
    assert set(journal.dropped) == {EventKind.STARTED}
    assert len(kept) == 400 - journal.dropped.total() + 200 - len(direct)
    assert direct
    assert {event.task_id for event in endings} <= {*kept, *direct}
    assert journal.deferring()


def test_the_bound_is_that_of_all_processes_together(settings: Settings) -> None:
    set_bound(settings, 64 * KIB)
    other = new_journal()
    other.append(Story().published(envelope=b"x" * 45 * KIB))
    journal = new_journal()
    journal.append(Story().published(envelope=b"x" * 5 * KIB))

    assert journal.dropped == {EventKind.PUBLISHED: 1}


def test_what_has_been_applied_takes_up_no_room(settings: Settings, later: Callable[[float], None]) -> None:
    set_bound(settings, 64 * KIB)
    idle = new_journal()
    idle.append(Story().published(envelope=b"x" * 45 * KIB))
    read_all()
    assert usage(the_folder())[1] > 45 * KIB
    journal = new_journal()
    journal.append(Story().published(envelope=b"x" * 20 * KIB))

    assert not journal.dropped


def test_there_is_room_again_after_a_while(settings: Settings, later: Callable[[float], None]) -> None:
    set_bound(settings, 16 * KIB)
    journal = new_journal()
    for _ in range(100):
        journal.append(Story().started())
    read_all()
    later(1.1)
    before = journal.dropped.total()
    journal.append(Story().started())

    assert journal.dropped.total() == before > 0


def test_a_worker_does_not_look_dead_for_want_of_room(settings: Settings) -> None:
    journal = new_journal()
    set_bound(settings, 1)
    journal.append(Story().started())
    journal.append_later(BEAT)

    assert direct_of(journal).events == [BEAT]
    assert journal.dropped.total() == 1


@pytest.mark.parametrize("kind", EventKind)
def test_what_needs_nobody_is_no_bad_ending(kind: EventKind) -> None:
    happy = {"published", "progress", "received", "started", "ignored", "retried", "returned", "succeeded"}
    happy |= {"success_stored", "upstream_failed", "abandoned"}  # another has the letter; the broker has the message

    assert is_bad_ending(Story().ended(kind)) == (kind not in happy)


# Disks and folders that fail


def test_a_full_disk_costs_whole_events_only_and_is_tried_again(
    later: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> None:
        journal, hard = new_journal(), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * KIB, hard))
        for _ in range(100):
            journal.append(Story().started())
        assert 50 < journal.dropped[EventKind.STARTED] < 100
        assert journal.deferring()
        journal.append(event := Story().failed())
        assert direct_of(journal).events == [event]
        assert len([record for record in caplog.records if "can't be written to" in record.message]) == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        later(2.1)
        journal.append(Story("after").started())
        os.write(tell, str(journal.dropped.total()).encode())

    told, tell = os.pipe()
    in_child(work)
    dropped = int(os.read(told, 10))
    assert new_source().backlog().dropped == {"event": dropped}
    kept = read_all()
    assert len(kept) == 100 - dropped + 1
    assert kept[-1] == "after"
    assert files() == []
    assert new_source().backlog().dropped == {"event": dropped}


@pytest.fixture
def small_disk(tmp_path: Path, settings: Settings) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting takes root; a process's own limit stands for the full disk elsewhere")
    settings.TASKOPS = {**settings.TASKOPS, "SPOOL_DIR": str(disk)}
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_truly_full_can_be_read_and_emptied(small_disk: Path, later: Callable[[float], None]) -> None:
    journal, source = new_journal(), new_source()
    assert source.hold()
    for _ in range(300):
        journal.append(Story().started())
    assert journal.dropped.total() > 50
    assert source.backlog().dropped == {"event": journal.dropped.total()}

    kept = read_all(source)
    assert len(kept) == 300 - journal.dropped.total()

    with suppress(OSError):
        (small_disk / "other").write_bytes(b"x" * 64 * KIB)
    later(2.1)
    journal.append(Story().started())
    journal.flush()
    later(1.1)
    read_all(source)
    assert files() == []
    (small_disk / "other").unlink()
    later(2.1)
    journal.append(Story().started())
    assert len(read_all(source)) == 1
    assert source.backlog().dropped == {"event": journal.dropped.total()}
    source.release()


def test_a_folder_that_cannot_be_made_is_tried_again_after_two_seconds(
    spool_dir: Path, later: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    spool_dir.write_text("a file where the folder should be")
    journal = new_journal()
    journal.append(Story().started())
    journal.append(ending := Story().failed())
    spool_dir.unlink()
    journal.append(Story().started())

    assert direct_of(journal).events == [ending]
    assert journal.dropped == {EventKind.STARTED: 2}
    assert len([record for record in caplog.records if "can't be written to" in record.message]) == 1
    later(2.1)
    journal.append(Story().started())
    assert new_source().backlog().dropped == {"event": 2}
    assert len(read_all()) == 1


def open_to_all(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def link(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def anothers(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a folder away takes root")
    folder.mkdir(parents=True)
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [(open_to_all, "others may write"), (link, "symbolic link"), (anothers, "belongs to user 12345")],
)
def test_a_folder_that_is_not_ours_alone_is_refused(
    spoil: Callable[[Path], None], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(the_folder())
    journal = new_journal()
    journal.append(Story().started())
    journal.append(ending := Story().failed())

    with pytest.raises(RefusedFolder, match=problem):
        make_private(the_folder())
    with pytest.raises(PermissionError):
        new_source().hold()
    assert problem in caplog.text
    assert direct_of(journal).events == [ending]
    assert files() == []


def test_a_lock_in_a_folder_of_somebody_else_makes_nobody_write_there(later: Callable[[float], None]) -> None:
    source = new_source()
    assert source.hold()
    the_folder().chmod(0o777)
    journal = new_journal(collected=False)
    journal.append(event := Story().started())
    source.release()

    assert direct_of(journal).events == [event]


def test_the_usual_folder_above_must_be_ours_alone_too(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings.TASKOPS = {**settings.TASKOPS, "SPOOL_DIR": None}
    assert the_folder().parent == tmp_path / f"taskops-{os.geteuid()}"
    make_private(the_folder())
    the_folder().parent.chmod(0o777)

    with pytest.raises(RefusedFolder, match="others may write"):
        make_private(the_folder())


def test_projects_databases_and_prefixes_have_folders_of_their_own(settings: Settings) -> None:
    one, other = folder_of("postgresql://shop"), folder_of("postgresql://test_shop")
    settings.TASKOPS = {**settings.TASKOPS, "JOURNAL_PREFIX": "../staging shop"}
    staging = folder_of("postgresql://shop")

    assert len({one, other, staging}) == 3
    assert one.parent == other.parent == staging.parent
    assert staging.name.startswith(".._staging_shop-")


def test_one_journal_follows_the_settings_to_another_folder(settings: Settings, tmp_path: Path) -> None:
    journal = new_journal()
    journal.append(Story().started())
    first = files()
    settings.TASKOPS = {**settings.TASKOPS, "SPOOL_DIR": str(tmp_path / "other")}
    journal.append(Story().started())

    assert len(first) == len(files()) == 1
    assert first != files()


def test_the_files_of_killed_writers_are_whole_but_for_their_end() -> None:
    def write() -> None:
        journal = new_journal()
        while True:
            journal.append(Story().published(envelope=b"x" * 5000))

    for _ in range(5):
        with child(write):
            wait_for_files()
            eventually(lambda: usage(the_folder())[1] > 200 * KIB)
        source, whole = new_source(), 0
        while entries := source.read(limit=50, wait=0):
            whole += sum(1 for entry in entries if readable(entry.data))
            source.acknowledge(entries)
        assert whole > 30
        assert files() == []


def readable(data: bytes) -> Event | None:
    try:
        return read_event(data)
    except ValueError:
        return None
