"""Puts data, style and script into one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from batcher.terminal import legible

SCRIPTS = (
    "core.js",
    "gallery.js",
    "detail.js",
    "compare.js",
    "problems.js",
    "charts.js",
    "live.js",
    "main.js",
)
_TEMPLATE, _STYLE = "report.html.j2", "style.css"
# What could end the script element, or a line in old JavaScript (HTML standard, ECMA-262).
_UNSAFE_IN_SCRIPT = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def render(title: str, data: dict[str, Any]) -> str:
    """The whole page. Everything in ``data`` reaches it as JSON, never as markup."""
    from jinja2 import Environment, StrictUndefined

    style, script = asset(_STYLE), "".join(map(asset, SCRIPTS))
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(asset(_TEMPLATE)).render(
        title=legible(title),
        policy=_policy(style, script, served="view" in data),
        style=_trusted(style),
        script=_trusted(script),
        data=_trusted(embedded(data)),
    )


def embedded(data: Any) -> str:
    """``data`` as JSON that is safe inside a script element."""
    try:
        text = msgspec.json.encode(data).decode()
    except UnicodeEncodeError:  # the name of a run directory that is not UTF-8
        text = json.dumps(msgspec.to_builtins(data))
    return text.translate(_UNSAFE_IN_SCRIPT)


def _policy(style: str, script: str, *, served: bool) -> str:
    """Content security policy: only this style and script, local media, and no network at all.

    ``served``: by ``batcher view``: the page gets updates and sends its marks.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            "img-src 'self' file: data:",
            "media-src 'self' file:",
            "connect-src 'self'" if served else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@cache
def asset(name: str) -> str:
    """A file of the page, as shipped."""
    return resources.files(__package__).joinpath("assets", name).read_text("utf-8")


def _trusted(text: str) -> Any:
    """Text of this package, or already escaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704 - assets of this package, and JSON whose markup is escaped
