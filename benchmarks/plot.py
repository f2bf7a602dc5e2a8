"""A plot as SVG, by hand: small panels with a line for each number of old rows, both axes by powers of ten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

__all__ = ["svg"]

_WIDTH, _HEIGHT, _ACROSS = 240, 190, 4
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 26, 26
_COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7")
_STYLE = (
    "text{font:11px sans-serif;fill:#777}.head{font-weight:bold}.grid{stroke:#777;stroke-opacity:.25}"
    "polyline{fill:none;stroke-width:2}"
)


def _powers(values: Sequence[float]) -> tuple[int, int]:
    """Return the powers of ten that all values are between."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _short(power: int) -> str:
    value = 10.0**power
    return f"{value:g}" if value < 10_000 else f"{value / 1000:g}k"


class _Panel:
    """One panel: where it is, and its two scales."""

    def __init__(self, number: int, x: Sequence[float], y: Sequence[float]) -> None:
        self.left = number % _ACROSS * _WIDTH + _LEFT
        self.top = number // _ACROSS * _HEIGHT + _TOP
        self.right, self.bottom = self.left + _WIDTH - _LEFT - _RIGHT, self.top + _HEIGHT - _TOP - _BOTTOM
        self._x, self._y = _powers(x), _powers(y)

    def across(self, value: float) -> float:
        """Return where a value is from left to right."""
        low, high = self._x
        return self.left + (math.log10(value) - low) / (high - low) * (self.right - self.left)

    def down(self, value: float) -> float:
        """Return where a value is from top to bottom."""
        low, high = self._y
        return self.bottom - (math.log10(value) - low) / (high - low) * (self.bottom - self.top)

    def frame(self, head: str) -> list[str]:
        """Return the title, the grid and its numbers."""
        drawn = [f'<text class="head" x="{self.left}" y="{self.top - 8}">{escape(head)}</text>']
        for power in range(self._x[0], self._x[1] + 1):
            x = self.across(10.0**power)
            drawn.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}"/>')
            drawn.append(f'<text x="{x:.1f}" y="{self.bottom + 15}" text-anchor="middle">{_short(power)}</text>')
        for power in range(self._y[0], self._y[1] + 1):
            y = self.down(10.0**power)
            drawn.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(f'<text x="{self.left - 5}" y="{y + 4:.1f}" text-anchor="end">{_short(power)}</text>')
        return drawn

    def line(self, points: Sequence[tuple[float, float]], colour: str) -> str:
        """Return a line through points."""
        drawn = " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)
        return f'<polyline stroke="{colour}" points="{drawn}"/>'


def svg(found: Sequence[Mapping[str, float]], heads: Sequence[tuple[str, str]]) -> str:
    """Return the plot.

    Args:
        found: a mapping for each measurement, with "rows", "resources" and what was measured.
        heads: the name and title of each panel.
    """
    rows = sorted({int(each["rows"]) for each in found})
    colours = dict(zip(rows, _COLOURS, strict=False))
    high = -(-len(heads) // _ACROSS) * _HEIGHT + 24
    size = f'viewBox="0 0 {_ACROSS * _WIDTH} {high}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="What things take, by the number of resources">',
        f"<style>{_STYLE}</style>",
    ]
    for number, (name, head) in enumerate(heads):
        panel = _Panel(number, [each["resources"] for each in found], [each[name] for each in found])
        drawn += panel.frame(head)
        for count in rows:
            points = sorted((each["resources"], each[name]) for each in found if each["rows"] == count)
            drawn.append(panel.line(points, colours[count]))
    at = _LEFT
    for count in rows:
        drawn.append(
            f'<line x1="{at}" x2="{at + 18}" y1="{high - 10}" y2="{high - 10}" stroke="{colours[count]}" stroke-width="2"/>'
        )
        drawn.append(f'<text x="{at + 24}" y="{high - 6}">{count:,} old rows</text>')
        at += 150
    drawn.append(f'<text x="{at}" y="{high - 6}">across: resources; upwards: milliseconds</text></svg>\n')
    return "\n".join(drawn)
