"""Random canvases, and what their results have to be."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from celery import chain, chord, group
from hypothesis import strategies as st

MAX_TASKS = 12
MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Leaf:
    """One task."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A chain, a group or a chord of others; of a chord the last is the body."""

    kind: str
    parts: tuple[Any, ...]


def canvases() -> st.SearchStrategy[Any]:
    return st.recursive(st.just(Leaf()), _wider, max_leaves=MAX_TASKS).filter(_fits)


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    kinds = st.sampled_from(("chain", "group", "chord"))
    return st.builds(lambda kind, parts: Canvas(kind, tuple(parts)), kinds, st.lists(inner, min_size=2, max_size=4))


def _fits(canvas: Any) -> bool:
    return isinstance(canvas, Canvas) and size(canvas) <= MAX_TASKS and _depth(canvas) <= MAX_DEPTH


def size(canvas: Any) -> int:
    return 1 if isinstance(canvas, Leaf) else sum(map(size, canvas.parts))


def _depth(canvas: Any) -> int:
    return 0 if isinstance(canvas, Leaf) else 1 + max(map(_depth, canvas.parts))


def built(canvas: Any, leaf: Callable[[], Any]) -> Any:
    """The signature, its tasks made by `leaf` in a fixed order."""
    if isinstance(canvas, Leaf):
        return leaf()
    parts = [built(part, leaf) for part in canvas.parts]
    if canvas.kind == "chord":
        return chord(parts[:-1], parts[-1])
    return chain(*parts) if canvas.kind == "chain" else group(*parts)


def names() -> Iterator[str]:
    number = 0
    while True:
        yield f"t{number}"
        number += 1
