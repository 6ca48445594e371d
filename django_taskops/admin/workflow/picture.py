"""What a picture is made of: tiles, frames and lines at their places. Lengths are pixels. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...states import TaskState
from .fitting import LINE_SIZE, fit, fit_name
from .folding import NEVER_RAN
from .tiles import NEVER_RAN_TONE, Frame, Tile

TILE_HEIGHT = 46
HEAD = 26  # of a frame with a label
PAD = 12
RAIL = 26  # between the rail that branches leave from, and the branches
LANE_GAP = 10
MARGIN = 4
CURVE = 8
TEXT = 34  # where the text of a tile begins
SIGNS: Mapping[str, str] = {
    TaskState.SUCCESS: "M11 23l5 5l9-10",
    TaskState.FAILURE: "M12 17l12 12m0-12l-12 12",
    TaskState.REJECTED: "M12 17l12 12m0-12l-12 12",
    TaskState.REVOKED: "M12 17h12v12h-12z",
    TaskState.IGNORED: "M11 23h14",
    TaskState.STARTED: "M13 16l11 7l-11 7z",
    TaskState.RETRY: "M24 20a7 7 0 1 0 1 5m0-10v5h-5",
    TaskState.RECEIVED: "M18 16a7 7 0 1 0 .01 0m0 3v4l3 2",
    TaskState.PENDING: "M18 16a7 7 0 1 0 .01 0m0 3v4l3 2",
    NEVER_RAN: "M18 16a7 7 0 1 0 .01 0m-5 2l10 10",
}
"""Lines in the left of a tile, 24 pixels wide and around the middle of its height: fonts lack signs, lines do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTile:
    tile: Tile
    x: int
    y: int
    width: int
    name: str
    line: str
    height: int = TILE_HEIGHT

    @property
    def sign(self) -> str:
        return SIGNS.get(self.tile.sign, "")

    @property
    def index_x(self) -> int:
        return self.width - 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFrame:
    label: str
    label_x: int
    x: int
    y: int
    width: int
    height: int

    @property
    def label_y(self) -> int:
        return self.y + 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`path` in the words of SVG. Dashed where it leads to what never ran."""

    path: str
    dashed: bool = False


@dataclass(slots=True, kw_only=True)
class Picture:
    name: str
    width: int = 0
    height: int = 0
    tiles: list[PlacedTile] = field(default_factory=list)
    frames: list[PlacedFrame] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def put(self, tile: Tile, x: int, y: int, width: int) -> None:
        room = width - TEXT - 6
        line_room = room - (8 * len(tile.index) if tile.index else 0)
        name, line = fit_name(tile.name, room), fit(tile.line, line_room / LINE_SIZE)
        self.tiles.append(PlacedTile(tile=tile, x=x, y=y, width=width, name=name, line=line))
        self._reach(x + width, y + TILE_HEIGHT)

    def frame(self, label: str, x: int, y: int, width: int, height: int, indent: int) -> None:
        fitted = fit(label, (width - indent - 6) / LINE_SIZE)
        placed = PlacedFrame(label=fitted, label_x=x + indent, x=x, y=y, width=width, height=height)
        self.frames.insert(0, placed)  # behind those in it
        self._reach(x + width, y + height)

    def line(self, path: str, target: "Tile | Frame | None" = None) -> None:
        self.lines.append(Line(path=path, dashed=target is not None and _never_ran(target)))

    def _reach(self, x: int, y: int) -> None:
        self.width, self.height = max(self.width, x + MARGIN), max(self.height, y + MARGIN)


def _never_ran(part: Tile | Frame) -> bool:
    """True where the picture shows nothing of it that ran."""
    if isinstance(part, Tile):
        return part.tone == NEVER_RAN_TONE
    return all(lane and _never_ran(lane[0]) for lane in part.lanes)


def gap_of(frame: Frame) -> int:
    """Between its branches, more where they are not single tiles, so that one sees where each ends."""
    return LANE_GAP if all(len(lane) == 1 and isinstance(lane[0], Tile) for lane in frame.lanes) else 2 * LANE_GAP


def head_of(frame: Frame) -> int:
    return HEAD if frame.label else 0
