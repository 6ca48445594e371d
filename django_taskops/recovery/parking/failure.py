"""The exception that a task died of, made anew from what is known of it: its type and its message."""

import sys
from ast import literal_eval
from collections.abc import Iterator
from contextlib import suppress

from celery.exceptions import TaskError, WorkerLostError

from ...capture.frames import message_of
from ...states import DeadLetterReason

_LOST = frozenset({DeadLetterReason.WORKER_LOST, DeadLetterReason.CANCELLED, DeadLetterReason.POISON})


def rebuilt(exception_type: str, message: str, reason: str) -> BaseException:
    """An exception of that type, which result backends store by its module and name, with that message. Where nobody
    has seen one, since the worker was lost say, one that says so."""
    if not exception_type:
        return (WorkerLostError if reason in _LOST else TaskError)(message)
    kind = _loaded(exception_type) or _named(exception_type)
    for args in _arguments(kind.__name__, message):
        with suppress(Exception):  # its constructor may want anything
            made = kind(*args)
            if message_of(made) == message:
                return made
    return _named(exception_type)(message)


def _loaded(name: str) -> type[Exception] | None:
    """The class, where this process has it. Imports nothing: the name comes out of a row."""
    module, _, qualname = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), qualname, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _named(name: str) -> type[Exception]:
    module, _, qualname = name.rpartition(".")
    return type(qualname, (Exception,), {"__module__": module or "builtins"})


def _arguments(name: str, message: str) -> Iterator[tuple[object, ...]]:
    """What may have been the arguments of an exception with that message, likely ones first."""
    yield (message,)
    for text in (message, message.removeprefix(name)):  # KeyError shows the repr of its argument, billiard's of all
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = literal_eval(text)
            yield found if isinstance(found, tuple) else (found,)
