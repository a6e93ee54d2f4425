"""What the site needs beyond its pages: figures from beside the records, the changelog, and drawings without a script.

Pages link to figures as they lie in the repository, so that they can be read there as well. Drawings are written in
Mermaid, which code hosts draw themselves; here chains of boxes, all that is used of it, become pictures.
"""

import html
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parent.parent
_FIGURE = re.compile(r"\]\((?:\.\./)+((?:experiments|benchmarks)/figures/\w+\.png)\)")
_SECTION = re.compile(r"<!-- README: (.*?) -->")  # of the README, shown here as well
_DRAWING = re.compile(r"```mermaid\n(.*?)```", re.DOTALL)
_EDGE = re.compile(r'(\w+)(?:\["(.*?)"\])?\s*-->\s*(\w+)(?:\["(.*?)"\])?')
_WIDTH, _LINE, _GAP = 190, 18, 34  # of a box, of a line of text, between boxes


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures that pages show, and the changelog."""
    shown = {figure for page in files.documentation_pages() for figure in _FIGURE.findall(page.content_string)}
    for name in sorted(shown):
        files.append(File.generated(config, name, abs_src_path=str(_ROOT / name)))
    files.append(File.generated(config, "changelog.md", abs_src_path=str(_ROOT / "CHANGELOG.md")))
    return files


def on_page_markdown(markdown: str, *, page, config: MkDocsConfig, files: Files) -> str:
    """Link figures to where they are on the site, and draw."""
    up = "../" * page.file.src_uri.count("/")
    markdown = _FIGURE.sub(lambda match: f"]({up}{match[1]})", markdown)
    markdown = _SECTION.sub(lambda match: section(match[1]), markdown)
    return _DRAWING.sub(lambda match: drawing(match[1]), markdown)


def section(title: str) -> str:
    """What the README has under a title."""
    text = (_ROOT / "README.md").read_text().split(f"\n## {title}\n", 1)[1]
    return text.split("\n## ", 1)[0].strip().replace("](docs/", "](")


def drawing(source: str) -> str:
    """An SVG of boxes with arrows, in columns by their distance from the first."""
    labels, edges = {}, []
    for one, one_label, other, other_label in _EDGE.findall(source):
        for name, label in ((one, one_label), (other, other_label)):
            labels[name] = label or labels.get(name, name)
        edges.append((one, other))
    column = dict.fromkeys(labels, 0)
    for _ in labels:  # the longest way from a start
        for one, other in edges:
            column[other] = max(column[other], column[one] + 1)
    rows, place = {}, {}
    for name in labels:
        place[name] = rows.get(column[name], 0)
        rows[column[name]] = place[name] + 1
    texts = {name: label.split("<br>") for name, label in labels.items()}
    height = _LINE * (max(map(len, texts.values())) + 1)
    is_down = "flowchart TD" in source

    def corner(name: str) -> tuple[int, int]:
        along, across = column[name], place[name]
        x, y = (across, along) if is_down else (along, across)
        return x * (_WIDTH + _GAP) + 2, y * (height + _GAP) + 2

    shapes = []
    for one, other in edges:
        (x, y), (to_x, to_y) = corner(one), corner(other)
        if is_down:
            ends = (x + _WIDTH // 2, y + height, to_x + _WIDTH // 2, to_y)
        else:
            ends = (x + _WIDTH, y + height // 2, to_x, to_y + height // 2)
        shapes.append('<line x1="{}" y1="{}" x2="{}" y2="{}" marker-end="url(#tip)"/>'.format(*ends))
    for name, lines in texts.items():
        x, y = corner(name)
        shapes.append(f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{height}" rx="6" fill="none"/>')
        for row, line in enumerate(lines):
            baseline = y + (height - _LINE * len(lines)) // 2 + _LINE * row + 13
            shapes.append(f'<text x="{x + _WIDTH // 2}" y="{baseline}">{html.escape(html.unescape(line))}</text>')
    width = max(corner(name)[0] for name in labels) + _WIDTH + 2
    full = max(corner(name)[1] for name in labels) + height + 2
    style = "line,rect{stroke:currentColor}text{font-size:13px;text-anchor:middle;fill:currentColor}"
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    tip += '<path d="M0,0L8,4L0,8z" fill="currentColor"/></marker>'
    return (
        f'<svg viewBox="0 0 {width} {full}" style="max-width:{width}px;width:100%" role="img">'
        f"<style>{style}</style><defs>{tip}</defs>{''.join(shapes)}</svg>\n"
    )
