"""Selects the rows of an export: a filter expression, and ids to exclude.

Expressions are evaluated by simpleeval: Python's operators on the row's columns, no calls except a few
string methods, limited in length and power. ``eval`` is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from batcher.errors import UsageError

_GROUPS = ("input", "meta", "var")


class _Nothing:
    """A missing value: equal to None, and neither greater nor less than anything."""

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Nothing)

    __hash__ = None  # type: ignore[assignment]

    def _never(self, other: object) -> bool:
        return False

    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _never

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        """Every text method of a missing value returns False."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_: False


_NOTHING = _Nothing()


def _value(value: Any) -> Any:
    return _NOTHING if value is None else value


class _Fields:
    """Columns of one group: ``meta.split`` or ``meta["split"]``; None if a job has none."""

    def __init__(self, group: str, row: dict[str, Any]) -> None:
        self._group, self._row = group, row

    def __getitem__(self, name: str) -> Any:
        column = f"{self._group}.{name}"
        if column not in self._row:
            raise UsageError(f"--filter: no column {column!r}")
        return _value(self._row[column])

    __getattr__ = __getitem__


class Choice(msgspec.Struct, frozen=True):
    """``where`` is an expression that must be true, ``but`` are job ids to exclude."""

    where: str | None = None
    but: frozenset[str] = frozenset()

    def check(self, columns: Iterable[str]) -> None:
        """Try the expression on a row without values. Raises UsageError if it is invalid."""
        if self.where is not None:
            self._holds(_evaluator(self.where), dict.fromkeys(columns))

    def of(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The selected ``rows``."""
        if self.where is None:
            yield from (row for row in rows if row["job"] not in self.but)
            return
        evaluator = _evaluator(self.where)
        for row in rows:
            if row["job"] not in self.but and self._holds(evaluator, row):
                yield row

    def _holds(self, evaluator: Any, row: dict[str, Any]) -> bool:
        from simpleeval import FeatureNotAvailable, InvalidExpression

        evaluator.names = {group: _Fields(group, row) for group in _GROUPS}
        evaluator.names |= {name: _value(v) for name, v in row.items() if "." not in name}
        evaluator.names |= {"None": None, "True": True, "False": False}
        try:
            return bool(evaluator.eval(self.where, previously_parsed=evaluator.parsed))
        except (InvalidExpression, FeatureNotAvailable) as error:
            raise UsageError(f"--filter {self.where!r}: {error}") from error
        except (TypeError, AttributeError):
            return False  # an operation that this job's values don't support: not selected
        except (ArithmeticError, ValueError, LookupError, RecursionError) as error:
            raise UsageError(f"--filter {self.where!r}: {error}") from error


def _evaluator(where: str) -> Any:
    from simpleeval import EvalWithCompoundTypes, InvalidExpression

    evaluator = EvalWithCompoundTypes(functions={"len": len, "lower": str.lower})
    try:
        evaluator.parsed = evaluator.parse(where)
    except SyntaxError as error:
        raise UsageError(f"--filter {where!r}: not an expression: {error.msg}") from error
    except (InvalidExpression, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"--filter {where!r}: {error}") from error
    return evaluator
