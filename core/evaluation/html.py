"""A report as one HTML file that refers to nothing outside itself: images as data URIs, curves as inline SVG, 3D viewers by trimesh."""

import base64
import json
import math
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from .report import Column, Curves, Grid, Models, Report, Section, Table

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 380, 64, 20, 16, 46  # of curves, and their margins
COLOURS = ("#1f5fa8", "#d1495b", "#2e8b57", "#e0912f", "#7a4fa3", "#3b9fb5", "#8c6d46")
STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #66707d; --line: #dfe3e8; --blue: #1f5fa8; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: var(--ink); background: #f5f6f8; margin: 0; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 27px; margin: 0 0 8px; } h2 { font-size: 21px; margin: 40px 0 12px; } h3 { font-size: 16px; margin: 0 0 10px; }
section > p, .caption { color: var(--soft); max-width: 90ch; } .caption { font-size: 13px; margin: 10px 0 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 0 0 18px; overflow-x: auto; }
pre { background: #1c2430; color: #e8edf3; border-radius: 8px; padding: 12px 14px; overflow-x: auto; margin: 12px 0; font-size: 13px; }
.status { display: inline-block; background: #fdf1d7; color: #7a5200; border-radius: 6px; padding: 3px 10px; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; font-size: 13px; } dt { color: var(--soft); } dd { margin: 0; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 11px; text-align: right; white-space: nowrap; } th { font-weight: 600; } td:first-child, th:first-child { text-align: left; }
thead tr:last-child th { border-bottom: 1.5px solid var(--ink); } thead tr:first-child th { border-top: 1.5px solid var(--ink); }
th.group { text-align: center; border-bottom: 1px solid var(--line); } tbody tr:last-child td { border-bottom: 1.5px solid var(--ink); }
tbody tr:hover { background: #f2f6fb; } tr.unranked td { color: var(--soft); }
.first { font-weight: 700; } .second { text-decoration: underline; text-underline-offset: 3px; }
.interval { display: block; color: var(--soft); font-size: 11px; font-weight: 400; text-decoration: none; }
.strips { display: grid; grid-template-columns: max-content max-content; gap: 5px 14px; align-items: center; font-size: 13.5px; }
.strips img { display: block; height: 96px; border-radius: 4px; } .columns { display: grid; font-size: 12px; color: var(--soft); text-align: center; }
.models { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 14px; font-size: 13px; }
.models button, .models iframe { display: block; box-sizing: border-box; margin-bottom: 5px; width: 100%;
  height: 230px; border: 1px solid var(--line); border-radius: 8px; background: #fafbfc; }
.models button { font: inherit; color: var(--blue); cursor: pointer; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .soft { fill: var(--soft); font-size: 11px; }
"""
OPEN = """
for (const button of document.querySelectorAll("button[data-glb]")) button.onclick = () => {
  const frame = document.createElement("iframe");
  frame.srcdoc = viewer.join(button.dataset.glb);
  button.replaceWith(frame);
};
"""


def page(report: Report) -> str:
    """The whole file."""
    status = f'<p class="status">{escape(report.status)}</p>' if report.status else ""
    settings = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(show_setting(value))}</dd>" for key, value in report.settings.items())
    sections, scripts = "".join(map(section, report.sections)), ""
    glbs = [file for s in report.sections for block in s.blocks if isinstance(block, Models) for file in block.models.values()]
    if glbs:
        before, _, after = viewer(glbs[0])
        scripts = "<script>const viewer = {};{}</script>".format(json.dumps([before, after]).replace("</", "<\\/"), OPEN)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<title>{escape(report.title)}</title><style>{STYLE}</style></head><body><main>
<h1>{escape(report.title)}</h1>{status}<pre>{escape(report.command)}</pre><div class="card"><dl>{settings}</dl></div>
{sections}</main>{scripts}</body></html>
"""


def show_setting(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def section(given: Section) -> str:
    text = f"<p>{escape(given.text)}</p>" if given.text else ""
    return f"<section><h2>{escape(given.title)}</h2>{text}{''.join(map(card, given.blocks))}</section>"


def card(block: Table | Grid | Curves | Models) -> str:
    body = {Table: table, Grid: grid, Curves: curves, Models: models}[type(block)](block)
    caption = f'<p class="caption">{escape(block.caption)}</p>' if block.caption else ""
    return f'<div class="card"><h3>{escape(block.title)}</h3>{body}{caption}</div>'


def table(block: Table) -> str:
    """Best in bold and second best underlined; intervals below the figures."""
    groups = [(name, len(list(columns))) for name, columns in groupby(block.columns, lambda column: column.group)]
    above = "".join(f'<th class="group" colspan="{n}">{escape(name)}</th>' if name else f'<th colspan="{n}"></th>' for name, n in groups)
    head = (f"<tr>{above}</tr>" if any(name for name, _ in groups) else "") + "".join(
        ["<tr>", *(f"<th>{escape(column.heading)}</th>" for column in block.columns), "</tr>"])
    rows = []
    for row, ranks in zip(block.rows, block.ranks()):
        cells = (cell(column, row.get(column.key), ranks[column.key]) for column in block.columns)
        rows.append(f'<tr{" class=unranked" if row.get("unranked") else ""}>{"".join(cells)}</tr>')
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def cell(column: Column, value, rank: int) -> str:
    shown = column.show(value)
    figure, interval = shown.split(" ", 1) if isinstance(value, tuple | list) else (shown, "")
    small = f'<span class="interval">{escape(interval)}</span>' if interval else ""
    return f'<td><span class="{("", "first", "second")[rank]}">{escape(figure)}</span>{small}</td>'


def grid(block: Grid) -> str:
    over = "".join(f"<span>{escape(name)}</span>" for name in block.columns)
    head = f'<span></span><div class="columns" style="grid-template-columns: repeat({len(block.columns)}, 96px)">{over}</div>' if over else ""
    strips = (f'<span>{escape(label)}</span><img alt="{escape(label)}" src="{data_uri(file)}">' for label, file in block.strips.items())
    return f'<div class="strips">{head}{"".join(strips)}</div>'


def data_uri(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(Path(file).read_bytes()).decode()}"


def curves(block: Curves) -> str:
    """An SVG, a file of its own or in a page: axes with round ticks, one line with its points for each series, a legend."""
    points = [point for series in block.series.values() for point in series]
    if not points:
        return "<p>no points yet</p>"
    x_ticks, y_ticks = (ticks([point[axis] for point in points]) for axis in (0, 1))
    x = lambda value: LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - LEFT - RIGHT)
    y = lambda value: HEIGHT - BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 190} {HEIGHT}" width="{WIDTH + 190}" role="img" '
             'font-family="sans-serif" font-size="12">']
    for value in x_ticks:
        parts.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e6e9ed"/>'
                     f'<text class="soft" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for value in y_ticks:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#e6e9ed"/>'
                     f'<text class="soft" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(block.x)}</text>'
                 f'<text transform="translate(15 {(HEIGHT - BOTTOM + TOP) / 2}) rotate(-90)" text-anchor="middle">{escape(block.y)}</text>')
    for i, (name, series) in enumerate(block.series.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x(point[0]):.1f},{y(point[1]):.1f}" for point in series)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in series:
            parts.append(f'<circle cx="{x(point[0]):.1f}" cy="{y(point[1]):.1f}" r="{4 if len(series) <= 40 else 2}" fill="{colour}"/>')
            if len(point) > 2:
                parts.append(f'<text class="soft" x="{x(point[0]) + 6:.1f}" y="{y(point[1]) - 6:.1f}">{escape(str(point[2]))}</text>')
        parts.append(f'<rect x="{WIDTH}" y="{TOP + 22 * i}" width="12" height="12" rx="2" fill="{colour}"/>'
                     f'<text x="{WIDTH + 18}" y="{TOP + 10 + 22 * i}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from below the least value to above the greatest."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * about >= span)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def models(block: Models) -> str:
    """A button for each, which becomes its viewer: three.js stands in the page once, and browsers keep no more than a few viewers alive."""
    return '<div class="models">' + "".join(
        f'<div><button data-glb="{viewer(file)[1]}">turn it in 3D</button>{escape(label)}</div>' for label, file in block.models.items()) + "</div>"


def viewer(glb: Path) -> tuple[str, str, str]:
    """trimesh's viewer of a mesh, an HTML page with three.js in it: what is before the mesh, the mesh with a camera in base64, what is after."""
    import trimesh  # only here: core itself does without
    from trimesh.viewer import scene_to_html

    return re.fullmatch(r'(.*base64_data=")([^"]*)(".*)', scene_to_html(trimesh.load_scene(glb)), re.DOTALL).groups()
