"""The meaning of HTTP statuses, the same for all vendors."""

from __future__ import annotations

from typing import Final

from batcher.errors import AuthRefused, BalanceExhausted, CallError, NotFound, Rejected

CLEARLY_REJECTED: Final = frozenset(
    {400, 405, 406, 411, 412, 413, 414, 415, 416, 417, 421, 422, 426, 428, 431, 451}
)
"""The request was not carried out (RFC 9110 section 15.5, RFC 6585). 408, 409, 425, 499 and the rest
may mean that work began, for example if a proxy timed out."""

BY_STATUS: Final[dict[int, type[CallError]]] = {
    401: AuthRefused,
    402: BalanceExhausted,
    403: AuthRefused,
    404: NotFound,
    410: NotFound,
    **dict.fromkeys((*CLEARLY_REJECTED, *range(300, 400)), Rejected),
}
"""Redirects are never followed. A status that is not here does not tell what became of a POST."""
