"""Which lines of a traceback are the project's own: OWN_CODE, else all that was not installed."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ..conf import conf

_FRAME = re.compile(r'(?P<indent>[ |+]*)File "(?P<path>[^"]+)", line \d+')
_INSTALLED = re.compile(r".*/(?:site-packages|dist-packages|lib(?:64)?/python\d[^/]*)/|<")


def emphasised(traceback: str) -> SafeString:
    """`traceback` with the project's own frames in bold."""
    packages = None if conf.OWN_CODE is None else tuple(conf.OWN_CODE)
    runs = groupby(_marked(traceback, packages), key=lambda marked: marked[0])
    parts = ((own, "".join(line for _, line in lines)) for own, lines in runs)
    return format_html_join("", "{}", ((_strong(text) if own else text,) for own, text in parts))


def _marked(traceback: str, packages: Sequence[str] | None) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it belongs to a frame of the project's own."""
    own, indent = False, ""
    for line in traceback.splitlines(keepends=True):
        if frame := _FRAME.match(line):
            own, indent = is_own(frame["path"], packages), frame["indent"]
        elif not line.startswith(f"{indent}  "):
            own = False
        yield own, line


def is_own(path: str, packages: Sequence[str] | None) -> bool:
    """True for a file of `packages`, dotted names; None: for a file that was not installed."""
    path = path.replace("\\", "/")
    installed = _INSTALLED.match(path)
    if packages is None:
        return installed is None
    place = f"/{path[installed.end() :]}" if installed else path
    return any(_holds(place, package.replace(".", "/"), anywhere=installed is None) for package in packages)


def _holds(place: str, package: str, *, anywhere: bool) -> bool:
    """Of what is installed, the place begins with the package; of a checkout nobody knows where it begins."""
    starts = (f"/{package}/", f"/{package}.py")
    return any(start in place for start in starts) if anywhere else place.startswith(starts)


def _strong(text: str) -> SafeString:
    return format_html('<strong class="taskops-own">{}</strong>', text)
