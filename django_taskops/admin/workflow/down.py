"""A workflow from top to bottom, for narrow screens. Pure."""

from .picture import CURVE, HEAD, MARGIN, PAD, RAIL, TILE_HEIGHT, Picture, gap_of, head_of
from .tiles import Frame, Row, Tile

TILE_WIDTH = 288  # of the outermost; what is nested is narrower by as much as it stands further in
LEAST_WIDTH = 176
STEM = 18  # where lines leave and reach a tile, from its left
STEP = 20


def draw(row: Row) -> Picture:
    picture = Picture(name="narrow")
    _row(picture, row, MARGIN, MARGIN, TILE_WIDTH, begins=True)
    return picture


def _row(picture: Picture, row: Row, x: int, y: int, width: int, *, begins: bool) -> tuple[int, int]:
    """Draws it, and returns how far right and how far down it reaches."""
    right = x
    for number, part in enumerate(row):
        if number:
            _arrow(picture, x + STEM, y, part)
            y += STEP
        reached, y = _part(picture, part, x, y, width, begins=begins and not number, follows=number < len(row) - 1)
        right = max(right, reached)
    return right, y


def _part(
    picture: Picture, part: Tile | Frame, x: int, y: int, width: int, *, begins: bool, follows: bool
) -> tuple[int, int]:
    if isinstance(part, Tile):
        picture.put(part, x, y, width)
        return x + width, y + TILE_HEIGHT
    top, stem, inner = y, x + STEM, x if part.apart else x + STEM + RAIL // 2 + 3
    right, y = inner, y + head_of(part)
    narrower = max(width - (inner - x) - (PAD if part.label else 0), LEAST_WIDTH)
    start = top + (head_of(part) + TILE_HEIGHT // 2 - CURVE if begins else 0)
    for lane in part.lanes:
        if not part.apart:
            entry = y + (TILE_HEIGHT if isinstance(lane[0], Tile) else HEAD) // 2
            picture.line(f"M{stem} {start}V{entry - CURVE}q0 {CURVE} {CURVE} {CURVE}H{inner}", lane[0])
            start = entry - CURVE
        reached, y = _row(picture, lane, inner, y, narrower, begins=part.apart)
        right, y = max(right, reached), y + gap_of(part)
    bottom = y - gap_of(part) + (PAD if part.label else 0)
    if follows:
        picture.line(f"M{stem} {start}V{bottom}")
    if part.label:
        picture.frame(part.label, x, top, right + PAD - x, bottom - top, STEM + 10)
        right += PAD
    return right, bottom


def _arrow(picture: Picture, x: int, y: int, part: Tile | Frame) -> None:
    picture.line(f"M{x} {y}V{y + STEP - 2}" + ("m-4 -5l4 5l4 -5" if isinstance(part, Tile) else ""), part)
