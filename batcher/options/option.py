"""An option: a row of the table, and how it reads and writes its values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from enum import Enum
from typing import Any

from batcher.options import kinds
from batcher.options.kinds import ValueKind, as_text


class Group(Enum):
    """The headings of help, in their order."""

    WHAT = "What"
    WHICH = "Which jobs"
    PACE = "Pace"
    MONEY = "Money"
    STOP = "Stopping"
    TRUST = "Trust"
    TALK = "Talk"


class Shapes(Enum):
    """What an option affects, and therefore whether printed commands repeat it."""

    JOBS = "jobs"
    MONEY = "money"
    ONCE = "this run's permission"
    TALK = "nothing that is bought"


class On(Enum):
    """Which commands have an option."""

    BOTH = ("run", "plan")
    RUN = ("run",)
    PLAN = ("plan",)


class Many(Enum):
    """How many values an option takes."""

    ONE = 1
    LIST = 2
    MAP = 3


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table; ``table.py`` says what each column means."""

    name: str
    kind: ValueKind
    shapes: Shapes
    help: str
    _: KW_ONLY
    to: str | None = None
    default: str | None = None
    on: On = On.BOTH
    many: Many = Many.ONE
    short: str | None = None
    hidden: bool = False
    group: Group = Group.TALK

    @property
    def key(self) -> str:
        """The name in Python and in files."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The name in the environment."""
        return f"BATCHER_{self.key.upper()}"

    @property
    def is_flag(self) -> bool:
        """Whether it has no value on the command line."""
        return self.kind is kinds.FLAG

    def default_value(self) -> Any:
        """The value if the option is not given: of its kind, or None, an empty list or mapping."""
        if self.default is not None:
            return self.value(self.default)
        if self.is_flag:
            return False
        return {Many.ONE: None, Many.LIST: (), Many.MAP: {}}[self.many]

    def value(self, given: Any) -> Any:
        """``given``, in Python's, TOML's or YAML's terms or as typed, as a value of this option.

        A list becomes a tuple, a mapping ``{name: text}``. Raises ValueError.
        """
        if given is None:
            raise ValueError("it has no value")
        if self.many is Many.LIST:
            return tuple(self.kind.parse(text) for text in self._texts(given))
        if self.many is Many.MAP:
            return dict(self._pairs(given))
        return self._one(given)

    def _one(self, given: Any) -> Any:
        if self.is_flag and not isinstance(given, bool | str):
            raise ValueError(f"{given!r:.80} is neither true nor false")
        if isinstance(given, bool) and not self.is_flag:
            raise ValueError(f"{given} is not a value for it; write {self.kind.metavar}")
        return self.kind.parse(as_text(given))

    def _texts(self, given: Any) -> Iterable[str]:
        entries = [given] if isinstance(given, str) or self._is_bare(given) else given
        if isinstance(entries, Mapping) or not isinstance(entries, Iterable):
            raise ValueError(f"{given!r:.80} is no list")
        for entry in entries:
            text = as_text(entry)
            yield from self._parts(text)

    def _is_bare(self, given: Any) -> bool:
        return self.kind.bare_name is not None and isinstance(given, int)

    def _parts(self, text: str) -> Iterable[str]:
        """The values in one text. A comma inside a pair's value is not a separator."""
        parts = text.split(self.kind.separator) if self.kind.separator else [text]
        if self.kind.at_last_equals and not all("=" in part for part in parts):
            parts = [text]
        if self.kind.separator is None:
            return parts
        filled = [part.strip() for part in parts if part.strip()]
        return filled or [text.strip()]

    def _pairs(self, given: Any) -> Iterable[tuple[str, str]]:
        if isinstance(given, Mapping):
            for name, value in given.items():
                if self.kind.bare_name is not None and re.search(r"[,=]", str(name)):
                    raise ValueError(f"{name!r:.80}: a name can't contain , or =")
                yield self.kind.name(str(name)), self.kind.parse(input_text(value))
            return
        for text in self._texts(given):
            last = self.kind.at_last_equals
            name, equals, value = text.rpartition("=") if last else text.partition("=")
            if not equals and self.kind.bare_name is not None:
                name, equals, value = self.kind.bare_name, "=", text
            if not equals or not (last or name.strip()):
                raise ValueError(f"{text!r:.120}: write {self.kind.metavar}")
            yield self.kind.name(name.strip()), self.kind.parse(value)

    def shown(self, value: Any) -> list[str]:
        """A value as it would be typed, one text for each time that the option is given."""
        if self.many is Many.MAP:
            bare = self.kind.bare_name
            shown = {name: self.kind.show(entry) for name, entry in value.items()}
            return [text if name == bare else f"{name}={text}" for name, text in shown.items()]
        if self.many is Many.LIST:
            return [self.kind.show(entry) for entry in value]
        return [self.kind.show(value)]


def under(group: Group, *rows: Option) -> tuple[Option, ...]:
    """``rows``, each with the heading ``group``."""
    return tuple(replace(row, group=group) for row in rows)


def input_text(value: Any) -> str:
    """A model input's value as it would be typed: JSON if it is neither text nor a number."""
    if isinstance(value, str | int | float) or value is None:
        return "" if value is None else as_text(value)
    import msgspec

    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r:.80} is not JSON: {error}") from None
