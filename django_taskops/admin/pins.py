"""The keys of chosen letters, in a request and in a form."""

from collections.abc import Iterable, Sequence

from django.http import HttpRequest


def pinned(given: Iterable[str]) -> list[int]:
    """The keys of the letters that were chosen, each once; what is no key is left out."""
    return sorted({int(pk) for pk in given if pk.isascii() and pk.isdecimal() and len(pk) < 19})


def pinned_in(text: str) -> list[int]:
    """Of one field: thousands of fields are more than Django takes."""
    return pinned(part.strip() for part in text.split(","))


def chosen_in(request: HttpRequest) -> list[int]:
    """One by one as `letter`, or many in one field `letters`."""
    given = request.POST if request.method == "POST" else request.GET
    return pinned([*given.getlist("letter"), *(str(pk) for pk in pinned_in(given.get("letters", "")))])


def as_text(letters: Sequence[int]) -> str:
    return ",".join(map(str, letters))
