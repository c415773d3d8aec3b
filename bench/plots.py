"""Line plots as SVG, written by hand: no package, and the same bytes for the same figures."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from pathlib import Path

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#0a7ea4", "#57606a")
STYLE = "text{font:12px sans-serif;fill:#24292f}.grid{stroke:#d0d7de;stroke-width:1}.line{fill:none;stroke-width:1.6}"

Points = Sequence[tuple[float, float]]


def line_plot(path: Path, title: str, x_label: str, y_label: str, series: Mapping[str, Points]) -> None:
    """Write one plot; each of ``series`` is a named line of (x, y). The y axis starts at 0."""
    xs = [x for line in series.values() for x, _ in line] or [0.0, 1.0]
    ys = [y for line in series.values() for _, y in line] or [0.0, 1.0]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(min(0.0, *ys), max(ys))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(WIDTH / 2, 18, title, "middle", ' style="font-weight:bold"'),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"),
        _text(16, HEIGHT / 2, y_label, "middle", f' transform="rotate(-90 16 {HEIGHT / 2})"'),
    ]
    parts += [_upright(_x(tick, x_ticks), f"{tick:g}") for tick in x_ticks]
    parts += [_level(_y(tick, y_ticks), f"{tick:g}") for tick in y_ticks]
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{_x(x, x_ticks):.1f},{_y(y, y_ticks):.1f}" for x, y in line)
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}"/>')
        parts.append(f'<rect x="{LEFT + 10}" y="{TOP + 6 + 16 * number}" width="12" height="4" fill="{colour}"/>')
        parts.append(_text(LEFT + 28, TOP + 12 + 16 * number, name, "start"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover low to high, at most about eight."""
    span = high - low or 1.0
    power = 10.0 ** floor(log10(span / 6))
    step = next(power * each for each in (1, 2, 5, 10) if span / (power * each) <= 8)
    return [round(n * step, 9) for n in range(floor(low / step), ceil(high / step) + 1)]


def _x(value: float, ticks: Sequence[float]) -> float:
    return LEFT + (value - ticks[0]) / (ticks[-1] - ticks[0] or 1.0) * (WIDTH - LEFT - RIGHT)


def _y(value: float, ticks: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0] or 1.0) * (HEIGHT - TOP - BOTTOM)


def _upright(x: float, label: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
    return line + _text(x, HEIGHT - BOTTOM + 16, label, "middle")


def _level(y: float, label: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
    return line + _text(LEFT - 8, y + 4, label, "end")


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'
