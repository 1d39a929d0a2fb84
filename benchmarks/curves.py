"""Small plots of curves as SVG: enough for a page of documentation, and nothing to install."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, MARGIN, GAP = 300, 230, 48, 16


@dataclass(frozen=True)
class Curve:
    """Points (x, y); one point alone is drawn as a dot."""

    name: str
    colour: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One plot with its curves; beyond ``x_most`` they are cut off."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    x_most: float = math.inf


def draw(panels: list[Panel]) -> str:
    """The panels side by side, two in a row, on axes of their own that begin at 0."""
    rows = math.ceil(len(panels) / 2)
    width, height = 2 * (WIDTH + MARGIN + GAP), rows * (HEIGHT + MARGIN + GAP) + 26
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="11">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_legend(panels[0].curves),
    ]
    for number, panel in enumerate(panels):
        left = MARGIN + (number % 2) * (WIDTH + MARGIN + GAP)
        top = 34 + (number // 2) * (HEIGHT + MARGIN + GAP)
        parts += [f'<g transform="translate({left},{top})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _legend(curves: list[Curve]) -> list[str]:
    parts = []
    for number, curve in enumerate(curves):
        x = MARGIN + number * 130
        parts.append(f'<rect x="{x}" y="8" width="12" height="4" fill="{curve.colour}"/>')
        parts.append(f'<text x="{x + 17}" y="14">{escape(curve.name)}</text>')
    return parts


def _panel(panel: Panel) -> list[str]:
    x_top = _round_up(min(max(x for curve in panel.curves for x, _ in curve.points), panel.x_most))
    y_top = _round_up(max(y for curve in panel.curves for _, y in curve.points))

    def at(x: float, y: float) -> tuple[float, float]:
        return round(min(x / x_top, 1.0) * WIDTH, 1), round(HEIGHT - y / y_top * HEIGHT, 1)

    parts = [
        f'<text x="{WIDTH / 2}" y="-6" text-anchor="middle" font-weight="bold">{escape(panel.title)}</text>',
        f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="black"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT + 30}" text-anchor="middle">{escape(panel.x_label)}</text>',
        f'<text transform="translate(-34,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(panel.y_label)}</text>',
        *(part for step in range(6) for part in _ticks(step / 5, x_top, y_top)),
    ]
    for curve in panel.curves:
        dots = [at(x, y) for x, y in curve.points]
        line = " ".join(f"{x},{y}" for x, y in dots)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{curve.colour}" stroke-width="1.8"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y}" r="2.4" fill="{curve.colour}"/>' for x, y in dots]
    return parts


def _ticks(part: float, x_top: float, y_top: float) -> list[str]:
    x, y = part * WIDTH, HEIGHT - part * HEIGHT
    return [
        f'<path d="M0 {y}H{WIDTH}" stroke="#e4e4e4"/>' if part else "",
        f'<text x="{x}" y="{HEIGHT + 14}" text-anchor="middle">{part * x_top:g}</text>',
        f'<text x="-5" y="{y + 4}" text-anchor="end">{part * y_top:g}</text>',
    ]


def _round_up(value: float) -> float:
    return next(
        step for step in (5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 200, 500, 1000) if step >= value
    )
