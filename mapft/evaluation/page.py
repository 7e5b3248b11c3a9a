"""Self-contained HTML pages: a run's report, a comparison, a sweep, and the runs of a folder.

A page loads nothing. Its Content-Security-Policy admits no script but pages/page.js, by its hash, so that a text of a
model or user stays text even where escaping failed.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from mapft.evaluation.result import Estimate
from mapft.evaluation.style import DARK, LIGHT, NARROW_SUFFIX
from mapft.utils.files import write_text

PAGES = Path(__file__).parent / "pages"
MAX_CHARACTERS = 4000  # of one response
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")  # invalid in HTML


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Write pages/{template}.html.jinja with this content; jinja escapes all of it that is not Markup."""
    return write_text(path, render(template, **content))


def render(template: str, **content: Any) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "estimate": estimate, "interval": interval, "printable": printable}
    script = (PAGES / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(f"{template}.html.jinja").render(
        style=Markup((PAGES / "page.css").read_text("utf-8")),
        script=Markup(script),
        script_source=f"'sha256-{digest}'",
        light=LIGHT,
        dark=DARK,
        **content,
    )


@dataclass(frozen=True)
class Section:
    """A part of pages/overview.html.jinja: figures, and a table. A cell is text, or Markup from `link` or `mark`."""

    anchor: str
    title: str
    text: str
    figures: Sequence[Markup] = ()
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def link(text: str, target: Path | str) -> Markup:
    """A link to a file beside the page."""
    return Markup('<a href="{}">{}</a>').format(quote(str(target)), text)


def mark(met: bool) -> Markup:
    """Yes or no, with a sign and a color."""
    return Markup('<span class="{}">{}</span>').format("met" if met else "missed", "yes" if met else "no")


def figure(folder: Path, name: str, caption: str) -> Markup:
    """folder/{name}.svg for wide windows and its narrow version for small ones, inline, with the page's colors."""
    versions = {"wide": f"{name}.svg", "narrow": f"{name}{NARROW_SUFFIX}.svg"}
    images = [
        Markup('<div class="{}">{}</div>').format(size, _inline(folder / file, f"{name}-{size}", caption))
        for size, file in versions.items()
    ]
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(Markup("").join(images), caption)


def _inline(path: Path, prefix: str, caption: str) -> Markup:
    """The svg element of a file that matplotlib wrote; ids are unique in the page."""
    svg = path.read_text("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", svg)
    for name, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{name})")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(caption)}"', 1))


def printable(text: str) -> str:
    """At most MAX_CHARACTERS characters, without those that are invalid in HTML; jinja escapes the rest."""
    shown = text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " …"
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", shown)


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def estimate(value: Estimate) -> str:
    """Mean and the longer half of the interval."""
    return f"{value.mean:.3f} ± {value.half_width:.3f}"


def interval(value: Estimate, digits: int = 3) -> str:
    """Mean and both ends of the interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as indented JSON."""
    return CONTROL.sub("", json.dumps(settings, indent=2))
