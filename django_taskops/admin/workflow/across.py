"""A workflow from left to right, for wide screens. Pure."""

from .picture import CURVE, MARGIN, PAD, RAIL, TILE_HEIGHT, Picture, gap_of, head_of
from .tiles import Frame, Row, Tile

TILE_WIDTH = 196
STEP = 30  # from one tile to the next


def draw(row: Row) -> Picture:
    picture = Picture(name="wide")
    _row(picture, row, MARGIN, MARGIN, begins=True, follows=False)
    return picture


def _row(picture: Picture, row: Row, x: int, y: int, *, begins: bool, follows: bool) -> int:
    """Draws it, its first line of tiles as low as the lowest of its parts needs it. Returns where it ends. `begins`
    where no line leads into it, `follows` where one leads on."""
    middle = y + max(map(_middle, row))
    for number, part in enumerate(row):
        if number:
            _arrow(picture, x, middle, part)
            x += STEP
        after = follows or number < len(row) - 1
        x = _part(picture, part, x, middle, begins=begins and not number, follows=after)
    return x


def _part(picture: Picture, part: Tile | Frame, x: int, middle: int, *, begins: bool, follows: bool) -> int:
    if isinstance(part, Tile):
        picture.put(part, x, middle - TILE_HEIGHT // 2, TILE_WIDTH)
        return x + TILE_WIDTH
    top = middle - _middle(part)
    inner, lane_top = x + (0 if part.apart else RAIL), top + head_of(part)
    entries, ends, gap = [], [], gap_of(part)
    for lane in part.lanes:
        entries.append(lane_top + max(map(_middle, lane)))
        ends.append(_row(picture, lane, inner, lane_top, begins=part.apart, follows=follows))
        lane_top += _height(lane) + gap
    right = max(ends)
    for lane, entry in zip(part.lanes, () if part.apart else entries, strict=False):
        picture.line(_branch(x, middle, inner, entry, begins=begins), lane[0])
    end = right + (RAIL if follows else PAD if part.label else 0)
    if follows:
        for reached, entry in zip(ends, entries, strict=True):
            picture.line(_gather(reached, entry, right + RAIL // 2, end, middle))
    if part.label:
        picture.frame(part.label, x, top, end - x, lane_top - gap + PAD - top, PAD)
    return end


def _middle(part: Tile | Frame) -> int:
    """From its top to the line that leads into it."""
    if isinstance(part, Tile):
        return TILE_HEIGHT // 2
    return head_of(part) + max(map(_middle, part.lanes[0]))


def _height(row: Row) -> int:
    middle = max(map(_middle, row))
    return max(middle - _middle(part) + _height_of_part(part) for part in row)


def _height_of_part(part: Tile | Frame) -> int:
    if isinstance(part, Tile):
        return TILE_HEIGHT
    lanes = sum(map(_height, part.lanes)) + gap_of(part) * (len(part.lanes) - 1)
    return head_of(part) + lanes + (PAD if part.label else 0)


def _arrow(picture: Picture, x: int, y: int, part: Tile | Frame) -> None:
    picture.line(f"M{x} {y}H{x + STEP - 2}" + ("m-5 -4l5 4l-5 4" if isinstance(part, Tile) else ""), part)


def _branch(x: int, y: int, to_x: int, to_y: int, *, begins: bool) -> str:
    """From the left edge of a frame to one of its branches, from the rail where nothing stands before the frame."""
    rail = x + RAIL // 2
    if begins:
        return f"M{rail} {y}V{to_y}H{to_x}"
    if y == to_y:
        return f"M{x} {y}H{to_x}"
    return f"M{x} {y}H{rail - CURVE}q{CURVE} 0 {CURVE} {CURVE}V{to_y - CURVE}q0 {CURVE} {CURVE} {CURVE}H{to_x}"


def _gather(x: int, y: int, rail: int, end: int, to_y: int) -> str:
    if y == to_y:
        return f"M{x} {y}H{end}"
    return f"M{x} {y}H{rail - CURVE}q{CURVE} 0 {CURVE} -{CURVE}V{to_y + CURVE}q0 -{CURVE} {CURVE} -{CURVE}H{end}"
