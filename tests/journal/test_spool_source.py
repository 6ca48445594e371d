"""The spool as its reader sees it: dead writers, torn ends, crashes between reading and acknowledging."""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from django_taskops.journal.base import Entry
from django_taskops.journal.codec import decode, encode
from django_taskops.journal.spool import collector, segment_files
from django_taskops.journal.spool import writer as spool_writer
from django_taskops.journal.spool.folder import add_dropped, dropped, usage
from django_taskops.journal.spool.segment_files import lock
from django_taskops.journal.spool.segments import HEADER, MAGIC, pieces, record_of
from tests.events import Story
from tests.journal.spooling import (
    child,
    files,
    in_child,
    kill,
    new_journal,
    new_source,
    read_all,
    the_folder,
    wait_for_files,
)
from tests.workers import eventually

BORN = 7


@pytest.fixture(autouse=True)
def _spool_dir(tmp_path: Path, settings: Settings) -> None:
    settings.TASKOPS = {**settings.TASKOPS, "SPOOL_DIR": str(tmp_path / "spool")}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets that many seconds pass at once."""
    real, skipped = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: real() + skipped[0])

    def skip(seconds: float) -> None:
        skipped[0] += seconds

    return skip


def write(*names: str, end: bool = True) -> Path:
    """A file with an event of each task; its writer is gone, if `end`."""
    journal = new_journal()
    before = set(files())
    for name in names:
        journal.append(Story(name).started())
    if end:
        journal.flush()
    else:
        keep_alive.append(journal)
    (path,) = set(files()) - before
    return path


keep_alive: list[object] = []


def names_of(entries: Sequence[Entry]) -> list[str]:
    return [decode(entry.data).subject for entry in entries]


# Reading and acknowledging


def test_what_is_read_stays_until_it_is_acknowledged() -> None:
    write("a", "b", "c")
    source = new_source()

    assert names_of(source.read(limit=2, wait=0)) == ["a", "b"]
    entries = source.read(limit=2, wait=0)
    assert names_of(entries) == ["a", "b"]
    source.acknowledge(entries)
    assert names_of(source.read(limit=2, wait=0)) == ["c"]


def test_after_a_crash_between_reading_and_acknowledging_events_come_again() -> None:
    write("a", "b")

    def crash() -> None:
        source = new_source()
        assert source.hold()
        source.acknowledge(source.read(limit=1, wait=0))
        assert names_of(source.read(limit=1, wait=0)) == ["b"]
        os.kill(os.getpid(), signal.SIGKILL)

    with child(crash) as pid:
        os.waitpid(pid, 0)
    source = new_source()
    assert source.hold()
    assert read_all(source) == ["b"]
    source.release()


def test_the_oldest_file_is_read_first_and_a_key_names_file_and_offset() -> None:
    first, second = write("a"), write("b")
    entries = new_source().read(limit=10, wait=0)

    assert names_of(entries) == ["a", "b"]
    assert [entry.key for entry in entries] == [f"{first.name}:{HEADER.size}", f"{second.name}:{HEADER.size}"]


def test_a_file_is_deleted_once_it_is_applied_and_its_writer_gone(later: Callable[[float], None]) -> None:
    write("gone")
    journal = new_journal()
    journal.append(Story("alive").started())
    source = new_source()
    assert read_all(source) == ["gone", "alive"]
    assert len(files()) == 1

    journal.append(Story("more").started())
    assert read_all(source) == ["more"]
    journal.flush()
    later(1.1)
    assert source.read(limit=1, wait=0) == []
    assert files() == []


def test_nothing_is_deleted_by_a_read_of_nothing() -> None:
    write("a")

    assert new_source().read(limit=0, wait=0) == []
    assert read_all() == ["a"]


def test_a_read_waits_for_the_first_event() -> None:
    source = new_source()
    assert source.hold()
    started = time.monotonic()
    assert source.read(limit=1, wait=0.12) == []
    assert 0.12 <= time.monotonic() - started < 5

    with child(lambda: write("late")):
        assert names_of(source.read(limit=1, wait=15)) == ["late"]
    source.release()


def test_without_a_folder_there_is_nothing_to_read_from() -> None:
    with pytest.raises(FileNotFoundError):
        new_source().read(limit=1, wait=0)


def test_writers_and_a_reader_at_once_lose_and_repeat_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_writer, "SEGMENT_BYTES", 16 * 1024)
    source, found = new_source(), list[str]()
    assert source.hold()

    def write_many(number: int) -> Callable[[], None]:
        def work() -> None:
            journal = new_journal()
            for each in range(2000):
                journal.append(Story(f"{number}-{each}").started())
            assert not journal.dropped

        return work

    def drain() -> bool:
        entries = source.read(limit=300, wait=0)
        found.extend(names_of(entries))
        source.acknowledge(entries)
        return len(found) >= 6000

    with child(write_many(0)), child(write_many(1)), child(write_many(2)):
        eventually(drain, timeout=60)
    assert sorted(found) == sorted(f"{number}-{each}" for number in range(3) for each in range(2000))
    for number in range(3):
        assert [name for name in found if name.startswith(f"{number}-")] == [f"{number}-{each}" for each in range(2000)]
    source.release()


# Torn and broken files


def test_the_torn_end_of_a_dead_writers_file_comes_as_it_is_and_blocks_nothing() -> None:
    path = write("a")
    torn = record_of(b"never finished", 1)[:-3]
    with path.open("ab") as file:
        file.write(torn)
    write("b")
    source = new_source()
    entries = source.read(limit=10, wait=0)

    assert [entry.data for entry in entries][1] == torn
    assert names_of([entries[0], entries[2]]) == ["a", "b"]
    assert entries[1].position == int(path.name[:20])
    source.acknowledge(entries)
    assert files() == []


def test_an_unfinished_record_waits_while_its_writer_lives() -> None:
    story = Story("late").started()
    record = record_of(encode(story), 1)
    told, tell = os.pipe()
    go_on, allow = os.pipe()

    def work() -> None:
        path = write("a", end=False)
        with path.open("ab", buffering=0) as file:
            file.write(record[:10])
            os.write(tell, b"x")
            os.read(go_on, 1)
            file.write(record[10:])
        os.write(tell, b"x")
        signal.pause()

    with child(work):
        os.read(told, 1)
        source = new_source()
        assert read_all(source) == ["a"]
        assert source.read(limit=5, wait=0) == []
        os.write(allow, b"x")
        os.read(told, 1)
        assert read_all(source) == ["late"]


def test_a_broken_record_comes_as_it_is_and_those_after_it_are_read() -> None:
    journal = new_journal()
    for name in ("a", "b", "c"):
        journal.append(Story(name).started())
    (path,) = files()
    first, second, third = new_source().read(limit=10, wait=0)
    start = int(second.key.rpartition(":")[2])
    with path.open("r+b") as file:
        file.seek(start + 9)  # its length
        file.write(b"\xff\xff\xff")

    source = new_source()
    entries = source.read(limit=10, wait=0)

    assert [first, third] == [entries[0], entries[2]]
    assert second.data in entries[1].data
    source.acknowledge(entries)
    journal.append(Story("d").started())
    assert read_all(source) == ["d"]


def test_the_file_of_a_killed_writer_is_picked_up() -> None:
    def work() -> None:
        write("a", "b", end=False)
        os.write(tell, b"x")
        signal.pause()

    told, tell = os.pipe()
    with child(work) as pid:
        os.read(told, 1)
        source = new_source()
        assert read_all(source) == ["a", "b"]
        assert len(files()) == 1
        kill(pid)
    source = new_source()
    assert source.read(limit=1, wait=0) == []
    assert files() == []


def test_a_file_without_a_header_is_left_to_its_writer_and_deleted_when_there_is_none() -> None:
    path = write("a")
    unborn = path.with_name(f"{1:020d}-1-00000000.spool")
    with unborn.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_all() == ["a"]
        assert unborn.exists()
    assert read_all() == []
    assert not unborn.exists()


def test_a_writer_makes_another_file_when_the_reader_takes_the_new_one_for_an_orphan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deleted: list[Path] = []

    def lock_late(descriptor: int, kind: int) -> bool:
        if kind == fcntl.LOCK_EX and not deleted:
            deleted.extend(files())
            assert read_all() == []
        return lock(descriptor, kind)

    monkeypatch.setattr(segment_files, "lock", lock_late)
    path = write("a")

    assert deleted
    assert path not in deleted
    assert read_all() == ["a"]


def test_a_file_of_a_later_format_is_left_alone(
    caplog: pytest.LogCaptureFixture, later: Callable[[float], None]
) -> None:
    path = write("a")
    foreign = path.with_name(f"{1:020d}-1-00000000.spool")
    foreign.write_bytes(HEADER.pack(MAGIC, 2, HEADER.size, 0) + b"who knows")
    source = new_source()

    assert read_all(source) == ["a"]
    later(1.1)
    assert read_all(source) == []
    assert foreign.exists()
    assert source.backlog().entries == 0
    assert len([record for record in caplog.records if foreign.name in record.message]) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_a_file_that_somebody_else_put_there_is_not_read() -> None:
    os.chown(write("forged"), 12345, 12345)

    assert read_all() == []


@given(
    payloads=st.lists(st.binary(max_size=40), max_size=6),
    cut=st.integers(min_value=0, max_value=400),
    final=st.booleans(),
)
def test_a_cut_costs_the_record_that_it_cuts(payloads: list[bytes], cut: int, final: bool) -> None:  # noqa: FBT001
    data = b"".join(record_of(payload, number) for number, payload in enumerate(payloads))[:cut]
    found = list(pieces(data, 24, BORN, final=final))
    whole = [piece.data for piece in found if piece.whole]

    assert whole == payloads[: len(whole)]
    assert sum(piece.end - piece.start for piece in found if piece.whole) + 60 > len(data)
    if final:
        assert sum(piece.end - piece.start for piece in found) == len(data)


@given(
    payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    place=st.floats(min_value=0, max_value=1, exclude_max=True),
    wrong=st.integers(min_value=1, max_value=255),
)
def test_a_wrong_byte_costs_the_record_that_it_is_in(payloads: list[bytes], place: float, wrong: int) -> None:
    records = [record_of(payload, number) for number, payload in enumerate(payloads)]
    data = bytearray(b"".join(records))
    data[int(place * len(data))] ^= wrong
    found = list(pieces(bytes(data), 24, BORN, final=True))

    assert b"".join(bytes(data)[piece.start - 24 : piece.end - 24] for piece in found) == bytes(data)
    assert sum(piece.whole for piece in found) == len(payloads) - 1
    assert [piece.position for piece in found if not piece.whole] == [BORN]


# Who reads, and what people see


def test_one_process_holds_and_its_end_lets_another() -> None:
    def work() -> None:
        assert new_source().hold()
        os.write(tell, b"x")
        signal.pause()

    told, tell = os.pipe()
    source = new_source()
    with child(work) as pid:
        os.read(told, 1)
        assert not source.hold()
        assert source.backlog().holder.endswith(f" {pid}")
        kill(pid)
    assert source.backlog().holder == ""
    assert source.hold()
    assert source.hold()
    assert not new_source().hold()
    source.release()
    source.release()
    assert new_source().hold()


def test_a_lock_that_is_deleted_before_it_is_taken_is_no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def lock_late(descriptor: int, kind: int) -> bool:
        (the_folder() / "collector.lock").unlink()
        return lock(descriptor, kind)

    monkeypatch.setattr(collector, "lock", lock_late)

    assert not new_source().hold()


def test_who_acknowledges_late_does_not_bring_back_what_another_has_applied() -> None:
    path = write("a", "b", "c", end=False)
    slow, fast = new_source(), new_source()
    entries = slow.read(limit=1, wait=0)
    assert read_all(fast) == ["a", "b", "c"]
    slow.acknowledge(entries)

    assert path.exists()
    assert read_all() == []


def test_a_lock_in_a_folder_that_is_no_more_is_no_hold() -> None:
    source = new_source()
    assert source.hold()
    (the_folder() / "collector.lock").unlink()
    other = new_source()
    assert other.hold()

    assert not source.hold()
    other.release()
    assert source.hold()
    source.release()


def test_a_child_does_not_hold_what_its_parent_holds() -> None:
    source = new_source()
    assert source.hold()

    def work() -> None:
        assert not source.hold()

    in_child(work)
    source.release()


def test_the_backlog_says_what_waits_and_changes_nothing() -> None:
    assert new_source().backlog().limit > 0
    before = time.time()
    first, *waiting = [f"t{number}" for number in range(15)]
    write(first, *waiting)
    write("last", end=False)
    source = new_source()
    source.acknowledge(source.read(limit=1, wait=0))
    backlog = source.backlog()

    assert backlog.entries == 15
    assert backlog.size == sum(len(record_of(encode(Story(name).started()), 0)) for name in (*waiting, "last"))
    assert backlog.oldest_at is not None
    assert abs(backlog.oldest_at.timestamp() - before) < 60
    assert names_of(backlog.newest) == ["last", *reversed(waiting)][:10]
    assert (backlog.holder, backlog.refused, backlog.dropped) == ("", "", {})
    assert source.backlog() == backlog
    assert usage(the_folder()) == (2, sum(path.stat().st_size for path in files()))


def test_what_a_segment_dropped_is_counted_once_though_its_reader_dies_twice() -> None:
    write("a")
    add_dropped(the_folder(), 3, "one.spool")
    add_dropped(the_folder(), 3, "one.spool")
    add_dropped(the_folder(), 2, "two.spool")

    assert dropped(the_folder()) == (5, "two.spool")


def test_a_new_file_is_seen_by_a_reader_that_waits() -> None:
    def work() -> None:
        write("a", end=False)
        signal.pause()

    with child(work):
        wait_for_files()
        assert names_of(new_source().read(limit=1, wait=15)) == ["a"]
