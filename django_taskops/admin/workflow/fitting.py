"""How much text a tile of the picture has room for. Pure."""

import unicodedata

NAME_SIZE = 12
LINE_SIZE = 9.5  # the second line is not bold, so that it needs less than its 11 pixels


def fit_name(name: str, room: int) -> str:
    """The end of a dotted name says most: what comes before goes first."""
    parts = name.split(".")
    for start in range(len(parts)):
        rest = ("…" if start else "") + ".".join(parts[start:])
        if _width(rest) * NAME_SIZE <= room:
            return rest
    return fit(parts[-1], room / NAME_SIZE)


def fit(text: str, room: float) -> str:
    """As much of `text` as fits into `room`, in units of its size."""
    fitting, used = 0, 0.0
    for number, character in enumerate(text):
        used += _width(character)
        if used > room:
            return f"{text[:fitting]}…"
        if used <= room - _width("…"):
            fitting = number + 1
    return text


def _width(text: str) -> float:
    """About what a browser needs for it in bold, rather more: fonts differ."""
    return sum(map(_share, text))


def _share(character: str) -> float:
    if character.isascii():
        return _SHARES.get(character, 0.7)
    return 1.05 if unicodedata.east_asian_width(character) in "WF" else 0.8


_SHARES = {
    **dict.fromkeys("iljtfrI.,:;'|!()[] ", 0.42),
    **dict.fromkeys("ABCDEHKNRSUVXY", 0.78),
    **dict.fromkeys("mwMWGOQ@%", 1.0),
}
