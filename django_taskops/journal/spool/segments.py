"""The format of the spool's files, as bytes.

    header   magic, version, `consumed` (the offset of what is not applied yet; written by the reader),
             `dropped` (events that the writer had no room for; written in place, so that a full disk can't prevent it)
    record   mark, crc32 of all that follows, length of the payload, position, payload

All numbers are little-endian.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"tskops"
VERSION = 1
HEADER = struct.Struct("<6sHQQ")
NUMBER = struct.Struct("<Q")
CONSUMED_AT = 8
DROPPED_AT = 16

MARK = b"\xf5Tr\xf6"  # no UTF-8 text holds it
CHECKED_AT = len(MARK) + 4
CHECKED = struct.Struct("<IQ")
PAYLOAD_AT = CHECKED_AT + CHECKED.size


class Header(NamedTuple):
    consumed: int
    dropped: int


class ForeignFile(ValueError):
    """A file of another format, of a later release perhaps."""


def new_header() -> bytes:
    return HEADER.pack(MAGIC, VERSION, HEADER.size, 0)


def header_of(data: bytes) -> Header | None:
    """None where there is no complete header yet. Raises ForeignFile."""
    if len(data) < HEADER.size:
        return None
    magic, version, consumed, dropped = HEADER.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION):
        raise ForeignFile(f"expected {MAGIC!r} version {VERSION}, got {magic!r} version {version}")
    return Header(max(consumed, HEADER.size), dropped)


def record_of(payload: bytes, position: int) -> bytes:
    checked = CHECKED.pack(len(payload), position)
    crc = zlib.crc32(payload, zlib.crc32(checked))
    return b"".join((MARK, crc.to_bytes(4, "little"), checked, payload))


class Piece(NamedTuple):
    """A record (`data` its payload), or what stands where a record should and is none (`data` as it is, `whole`
    False). `start` and `end` are offsets in the file."""

    start: int
    end: int
    data: bytes
    position: int
    whole: bool


def pieces(data: bytes, start: int, born: int, *, final: bool) -> Iterator[Piece]:
    """What `data`, read at offset `start` of a file whose first position is `born`, consists of.

    The length of a broken record is not trusted: the next good record ends it. Where there is none, a `final` file
    ends in one broken piece, and of a file that may grow the rest waits.
    """
    offset = 0
    while offset < len(data):
        if (record := _record_at(data, offset)) is not None:
            payload, position = record
            end = offset + PAYLOAD_AT + len(payload)
            yield Piece(start + offset, start + end, payload, position, whole=True)
        else:
            end = _next_record(data, offset + 1)
            if end == len(data) and not final:
                return
            yield Piece(start + offset, start + end, data[offset:end], born, whole=False)
        offset = end


def _record_at(data: bytes, offset: int) -> tuple[bytes, int] | None:
    checked, payload = offset + CHECKED_AT, offset + PAYLOAD_AT
    if not data.startswith(MARK, offset) or payload > len(data):
        return None
    length, position = CHECKED.unpack_from(data, checked)
    end = payload + length
    if end > len(data) or zlib.crc32(data[checked:end]) != int.from_bytes(data[offset + len(MARK) : checked], "little"):
        return None
    return data[payload:end], position


def _next_record(data: bytes, offset: int) -> int:
    """The offset of the next good record, or the end."""
    while (offset := data.find(MARK, offset)) >= 0:
        if _record_at(data, offset) is not None:
            return offset
        offset += 1
    return len(data)
