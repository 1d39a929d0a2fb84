"""Distinguishes refusals from temporary failures, by the API's code and message.

A *refusal* is the API's judgement of the inputs: its content rules forbid them, or they are invalid.
The same inputs would be refused again, and a refused generation may cost money. Every failure that is
not clearly a refusal counts as temporary.

- Codes are those of docs/api.md: an HTTP status, or a status × 1000 and a number (422001).
- A code alone counts as a refusal only for the statuses that HTTP defines so (400, 413, 415, 422, 451).
  Everything else, above all 500001 (the API's catch-all), is decided by the words of the message.
- Words of a temporary failure ("content filter timed out") outweigh words of a refusal.
"""

from __future__ import annotations

import re
from typing import Final

NOT_ABOUT_INPUTS: Final = frozenset({400002, 400004, 400005})
"""InsufficientResources, UserAccountError, and "not ready": 400s that don't judge the inputs."""
INPUT_STATUSES: Final = frozenset({400, 413, 415, 422, 451})
_PER_STATUS: Final = 1000

_TROUBLE = re.compile(
    r"time[ds]?[ -]?out|unavailable|overload|temporar|try again (later|in )|please retry|busy"
    r"|rate.?limit|internal (server )?error|unexpected error|connection|upstream",
    re.IGNORECASE,
)
_CONTENT = re.compile(
    r"content (filter|polic|moderation|violation|restriction|guideline)|moderat(ed|ion)|nsfw"
    r"|not safe for|safety (filter|system|check|polic|setting|guideline)|unsafe|(usage|use) polic"
    r"|polic(y|ies) violation|violat\w* .{0,60}(polic|guideline|terms|rules)|community guidelines"
    r"|(sensitive|prohibited|inappropriate|explicit|harmful|illegal|forbidden|disallowed|banned)"
    r" (content|word|term|material|image|prompt)|sexual|nudity|risk control|flagged|copyright",
    re.IGNORECASE,
)
_INPUT = re.compile(
    r"invalid (input|parameter|argument|prompt|value|image|video|audio|media|file|url|format|aspect"
    r"|duration|resolution|size)|(input|parameter|argument|prompt|image|video|audio|value) (is|are) (not"
    r" (valid|supported|allowed)|invalid|unsupported|too (long|short|large|small|big))"
    r"|unsupported (image|video|audio|media|file|format|aspect|duration|resolution|input)"
    r"|(input )?validation (error|failed)|unprocessable",
    re.IGNORECASE,
)


def is_refusal(code: int | str | None, message: str | None) -> bool:
    """Whether a failed submission or generation was refused because of its inputs."""
    if isinstance(code, int) and _judges_inputs(code):
        return True
    text = f"{code} {message or ''}".replace("_", " ")
    if _TROUBLE.search(text):
        return False
    return _CONTENT.search(text) is not None or _INPUT.search(text) is not None


def _judges_inputs(code: int) -> bool:
    status = code // _PER_STATUS if code >= _PER_STATUS else code
    return status in INPUT_STATUSES and code not in NOT_ABOUT_INPUTS
