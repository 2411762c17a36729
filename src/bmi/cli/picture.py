"""The family tree of disks as an SVG picture: time runs to the right, what is deleted alone stands alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from bmi.cli import output

if TYPE_CHECKING:
    from bmi.client.documents import Kin

# In pixels.
_WIDTH, _HEIGHT = 208, 56
_GAP_X, _GAP_Y, _MARGIN = 64, 18, 28
_LEGEND = 34
_MAX_LABEL, _MAX_NAME, _MAX_FACTS = 30, 20, 33

# Fill and line of each kind.
_COLOURS = {
    "image": ("#eaf1fb", "#2f6db5"),
    "volume": ("#e9f6ec", "#2f8f4e"),
    "snapshot": ("#fdf3e1", "#c07f14"),
}
_TROUBLE = "#c0392b"
_STYLE = (
    "text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:#1d2733}"
    ".kind{font-size:10px;fill:#5a6675}"
    ".name{font-size:13.5px;font-weight:600}"
    ".facts{font-size:11px;fill:#4a5563}"
    ".edge{fill:none;stroke:#a9b4c0;stroke-width:1.5}"
)


@dataclass(frozen=True)
class _Box:
    kin: "Kin"
    x: int
    y: float

    @property
    def middle(self) -> float:
        return self.y + _HEIGHT / 2


def svg(family: "Sequence[Kin]") -> str:
    """The picture of a family whose parents come before what comes of them."""
    boxes = _placed(family)
    width = max((box.x + _WIDTH for box in boxes.values()), default=_WIDTH + _MARGIN) + _MARGIN
    height = max((box.y + _HEIGHT for box in boxes.values()), default=_MARGIN) + _MARGIN + _LEGEND
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        *(_edge(boxes[kin["parent"]], boxes[kin["id"]]) for kin in family if kin["parent"]),
        *(line for box in boxes.values() for line in _drawn(box)),
        *_legend(height - _MARGIN / 2),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _placed(family: "Sequence[Kin]") -> dict[str, _Box]:
    """One row for each that nothing comes of; whoever has children stands in the middle before them."""
    children: dict[str | None, list[Kin]] = {}
    for kin in family:
        children.setdefault(kin["parent"], []).append(kin)
    depths: dict[str, int] = {}
    for kin in family:
        depths[kin["id"]] = depths[kin["parent"]] + 1 if kin["parent"] else 0
    rows = iter(range(len(family)))
    tops: dict[str, float] = {}
    # Children stand behind their parents in the list, and deeper ones behind their elder cousins.
    for kin in family:
        if kin["id"] not in children:
            tops[kin["id"]] = _MARGIN + next(rows) * (_HEIGHT + _GAP_Y)
    for kin in reversed(family):
        below = [tops[child["id"]] for child in children.get(kin["id"], [])]
        if below:
            tops[kin["id"]] = (min(below) + max(below)) / 2
    return {
        kin["id"]: _Box(kin, _MARGIN + depths[kin["id"]] * (_WIDTH + _GAP_X), tops[kin["id"]])
        for kin in family
    }


def _edge(parent: _Box, child: _Box) -> str:
    start, end = parent.x + _WIDTH, child.x
    bend = (start + end) / 2
    return (
        f'<path class="edge" d="M{start:g},{parent.middle:g} C{bend:g},{parent.middle:g} '
        f'{bend:g},{child.middle:g} {end:g},{child.middle:g}"/>'
    )


def _drawn(box: _Box) -> Iterator[str]:
    kin = box.kin
    fill, line = _COLOURS[kin["kind"]]
    state = kin["state"]
    dashed = ' stroke-dasharray="5 3"' if state != "ready" else ""
    stroke = _TROUBLE if state == "error" else line
    said = f"{kin['kind']} {kin['name']}, {state}, id {kin['id']}"
    yield f"<g><title>{escape(said)}</title>"
    yield (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="7" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"{dashed}/>'
    )
    on_node = kin["node"] and f"on node {kin['node']}"
    label = " · ".join(part for part in (kin["kind"], state if state != "ready" else "", on_node) if part)
    yield _words("kind", box, 15, _short(label, _MAX_LABEL))
    yield _words("name", box, 32, _short(kin["name"], _MAX_NAME))
    yield _words("facts", box, 47, _short(_facts(kin), _MAX_FACTS))
    yield "</g>"


def _words(style: str, box: _Box, below: int, text: str) -> str:
    return f'<text class="{style}" x="{box.x + 11:g}" y="{box.y + below:g}">{escape(text)}</text>'


def _facts(kin: "Kin") -> str:
    own = output.size(kin["unique_bytes"])
    facts = (output.size(kin["size_bytes"]), own and f"{own} unique")
    return ", ".join(fact for fact in facts if fact)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _legend(y: float) -> Iterator[str]:
    x = _MARGIN
    for kind, (fill, line) in _COLOURS.items():
        yield (
            f'<rect x="{x}" y="{y - 11:g}" width="14" height="12" rx="3" fill="{fill}" stroke="{line}" '
            'stroke-width="1.5"/>'
        )
        yield f'<text class="facts" x="{x + 20}" y="{y:g}">{kind}</text>'
        x += 90
