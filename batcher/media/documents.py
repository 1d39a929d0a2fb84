"""Outputs other than images, videos and sounds: documents, 3D models, archives; and refused types.

A document has no signature, so its URL and its content type must declare it, and its first bytes must
not contradict them: an error page or a JSON message under another name is not accepted.
"""

from __future__ import annotations

import re
from typing import Final

DOCUMENT_TYPES: Final = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".log": "text/plain",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".geojson": "application/geo+json",
    ".xml": "application/xml",
    ".srt": "application/x-subrip",
    ".vtt": "text/vtt",
    ".sbv": "text/x-sbv",
    ".ass": "text/x-ssa",
    ".ssa": "text/x-ssa",
    ".rtf": "application/rtf",
    ".tex": "application/x-tex",
    ".musicxml": "application/vnd.recordare.musicxml+xml",
    ".lrc": "text/x-lrc",
    ".ttml": "application/ttml+xml",
    ".obj": "model/obj",
    ".mtl": "model/mtl",
    ".stl": "model/stl",
    ".gltf": "model/gltf+json",
    ".dae": "model/vnd.collada+xml",
    ".x3d": "model/x3d+xml",
    ".bvh": "model/x-bvh",
    ".usda": "model/vnd.usda",
    ".cube": "text/x-cube",
    ".step": "model/step",
    ".safetensors": "application/vnd.safetensors",
    ".splat": "model/x-splat",
    ".tga": "image/x-tga",
    ".mp2": "audio/mp2",
    ".pcm": "audio/pcm",
}
"""Formats without a signature in their first bytes."""

_JSON: Final = frozenset({".json", ".jsonl", ".geojson", ".gltf"})
_XML: Final = frozenset({".xml", ".musicxml", ".ttml", ".dae", ".x3d"})
_PROSE: Final = frozenset({".txt", ".rtf", ".tex", ".md", ".log", ".csv", ".tsv", ".yaml", ".lrc"})
_VAGUE: Final = frozenset({"text/plain", "application/json", "application/xml", "application/yaml"})
"""Types that an error message may have too: alone they declare nothing."""
_BY_TYPE: Final = {
    kind: extension for extension, kind in reversed(DOCUMENT_TYPES.items()) if kind not in _VAGUE
} | {"text/xml+ttml": ".ttml", "application/x-ndjson": ".jsonl", "application/srt": ".srt"}

_MARKUP = re.compile(rb"<(?:!|\?|[a-z])", re.IGNORECASE)
_PAGE = re.compile(rb"(?:<\?xml[^>]*+>|\s++)*+<(?:!doctype html|html|error)\b", re.IGNORECASE)
_JSON_START = re.compile(rb'[\[{"tfn\d-]')
_JSON_MESSAGE = re.compile(rb'\{\s*["}]|\[\s*[\[\]{"\d-]')
_JSON_TYPE = re.compile(r"application/(?:.*\+)?(?:json|jsonl|x-ndjson)|text/json|model/gltf\+json")
_XML_TYPE = re.compile(r"(?:application|text)/(?:.*\+)?xml|model/.*\+xml")
_PAGE_TYPE = re.compile(r"text/html|application/xhtml.*")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")

_SAFE_EXTENSION = re.compile(r"\.[a-z][a-z0-9]{0,11}")
_RISKY_WORDS: Final = (
    "exe com bat cmd scr msi msp cpl hta lnk reg vb vbe vbs js jse mjs ws wsf wsh ps psm pif jar "
    "class app command dmg pkg deb rpm apk ipa run sh bash zsh fish csh ksh py pyc pyw pl rb php "
    "phtml phar asp aspx jsp cgi htm html xhtml shtml mht mhtml xht svgz so dll dylib sys drv "
    "desktop service url webloc website part tmp lock htaccess "
)
_RISKY: Final = frozenset(f".{word}" for word in _RISKY_WORDS.split())
"""Extensions that a desktop or a web server would execute, or open as a page."""


def declared_document(extension: str, media_type: str, head: bytes) -> str | None:
    """The extension of a document, if the file's URL or content type declares one, else None.

    ``extension`` is the URL's own, "" for none. The result is None if the type or ``head`` contradicts.
    """
    declared = extension if extension in DOCUMENT_TYPES else _BY_TYPE.get(media_type)
    if extension and declared != extension:
        return None
    return declared if declared and _fits(declared, media_type, head) else None


def _fits(extension: str, media_type: str, head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _PAGE_TYPE.fullmatch(media_type) or _PAGE.match(start):
        return False
    if extension in _JSON:
        return not _XML_TYPE.fullmatch(media_type) and bool(_JSON_START.match(start))
    if _JSON_TYPE.fullmatch(media_type):
        return False
    if extension in _XML:
        return bool(_MARKUP.match(start))
    if _XML_TYPE.fullmatch(media_type) or _MARKUP.match(start):
        return False
    return extension in _PROSE or not _JSON_MESSAGE.match(start)


def safe_extension(extension: str) -> str | None:
    """An unknown extension if it is harmless in a file's name, else None."""
    return extension if _SAFE_EXTENSION.fullmatch(extension) and extension not in _RISKY else None


def is_text(head: bytes) -> bool:
    """Whether bytes are text: UTF-8, perhaps cut inside a character, without control characters."""
    if _CONTROL.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
