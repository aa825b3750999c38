"""Results: what every measurement returns. Values that survive JSON, and the views of them.

A result is a frozen dataclass that inherits from `Result` and names its kind:

    @dataclass(frozen=True)
    class Geometry(Result, kind="geometry"):
        loss: Interval
        ...

Notable:
- `to_json` and `from_json` follow the types of the fields (nested dataclasses, tuples, lists,
  dictionaries, arrays of float64, int64 or bool; what else has `to_plain` and `from_plain`), so a
  result type writes no code for them.
- Measures stand below views. The module of the views is imported when one is first asked for; it
  has the functions of `Views`.
- Stored JSON says its kind and schema. `schema` counts up when a field changes its meaning; what an
  older lmlab stored is refused by name, never read wrongly.
- JSON has no NaN and no infinity; they are stored as the words "nan", "inf" and "-inf".
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast

from lmlab.config import from_mapping
from lmlab.durable import from_json, to_json, write_text
from lmlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from lmlab.pages.page import Figure, Table
    from lmlab.pages.report import Report

RESULTS, PAGE = "results.json", "report.html"


def environment() -> dict[str, str]:
    """The versions that numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


class Views(Protocol):
    """What the module of a result's views has."""

    def tables(self, result: Any) -> Sequence[Table]:
        """The result in rows; draws nothing. The first table is the one of `Result.frame`."""
        ...

    def report(self, result: Any) -> Report:
        """Title, summary and sections, with figures and tables."""
        ...


@dataclass(frozen=True)
class Result:
    """Base of all results. Subclasses give their `kind`, a `schema` above 1 if it changed, and the
    module of their `views` where that is not `report` beside the module that they are in (for a
    script or a notebook, which has no module beside it, that module itself).

    The arrays and values of a result are its fields; the methods below only show and store them.
    """

    kind: ClassVar[str]
    schema: ClassVar[int]
    views: ClassVar[str]
    source: ClassVar[str] = "results.json beside this page"
    """What the page is made of, as it says itself."""
    derived: ClassVar[tuple[str, ...]] = ()
    """Names of properties that the JSON has beside the fields, for whoever reads it without lmlab;
    they are left out when it is read again. Dataclasses inside of results may have them too."""

    environment: dict[str, str] = field(default_factory=environment, kw_only=True)
    """Versions of python, torch and transformers that the result was measured with."""

    def __init_subclass__(cls, *, kind: str, views: str = "", schema: int = 1) -> None:
        cls.kind, cls.schema = kind, schema
        package = cls.__module__.rpartition(".")[0]
        cls.views = views or (f"{package}.report" if package else cls.__module__)
        # dataclass would compare arrays by `==`, which has no truth, and show all of their numbers
        cls.__eq__, cls.__repr__ = Result.__eq__, Result.__repr__

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_json() == cast(Result, other).to_json()

    def __repr__(self) -> str:
        """Its plain values and intervals in a line, and those of its parts; arrays are left out."""
        return value_text(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write, with the result's kind and schema."""
        return {"kind": self.kind, "schema": self.schema, **_fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str = "result") -> Self:
        """The result that `to_json` wrote; the `command` and `options` of a file are left out.

        Raises `UserError` for another kind or schema, there or in a result that is a field of this
        one, an unknown, missing or mistyped field.
        """
        return from_mapping(cls, values, where=where)

    @classmethod
    def stored_fields(cls, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """What is to be read of a stored result. Raises `UserError` for another kind or schema."""
        if values.get("kind") != cls.kind:
            raise UserError(f"{where}: a result of kind {values.get('kind')!r}, not {cls.kind!r}")
        if values.get("schema") != cls.schema:
            raise UserError(
                f"{where}: schema {values.get('schema')} of a {cls.kind!r} result, and this lmlab "
                f"reads schema {cls.schema}; measure it again"
            )
        about = ("kind", "schema", "command", "options")
        return {key: value for key, value in values.items() if key not in about}

    def tables(self) -> list[Table]:
        """The result in tables, as the command prints them."""
        return list(self.view_module.tables(self))

    def figures(self) -> list[Figure]:
        """All figures of the page."""
        parts = [section for part in self.report.parts for section in part.sections]
        return [figure for s in (*self.report.sections, *parts) for figure in s.figures]

    def frame(self, table: int = 0) -> pd.DataFrame:
        """One of `tables()` as a pandas data frame (the first, unless another is asked for).

        Raises `UserError` for a table that is not there.
        """
        import pandas as pd

        tables = self.tables()
        if not 0 <= table < len(tables):
            raise UserError(f"table={table}: this result has the tables 0 to {len(tables) - 1}")
        return pd.DataFrame(
            [tuple(row) for row in tables[table].rows], columns=list(tables[table].columns)
        )

    def summary(self) -> str:
        """The main finding in words."""
        return self.report.summary

    def page(self) -> str:
        """The whole page as HTML text: no script, no request."""
        from lmlab.pages.page import render_page

        report, footer = self.report, made_by(self.environment, self.source)
        return render_page(
            report.title, report.summary, report.sections, parts=report.parts, footer=footer
        )

    def save(
        self,
        folder: str | Path,
        *,
        command: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Path:
        """Writes results.json and report.html into `folder`; returns it.

        `command` and `options` say how the result came about, and are stored with it.
        """
        for name, text in self.files(command=command, options=options).items():
            write_text(Path(folder) / name, text)
        return Path(folder)

    def files(
        self, *, command: str | None = None, options: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """The texts that `save` writes, by name."""
        about = {"command": command, "options": options and dict(options)}
        about = {key: value for key, value in about.items() if value is not None}
        return {RESULTS: to_json({**about, **self.to_json()}), PAGE: self.page()}

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for notebooks: its style touches nothing around it."""
        return (
            f'<iframe sandbox="allow-downloads" srcdoc="{escape(self.page())}" '
            f'title="{escape(self.kind)}" style="width:100%;height:40em;border:1px solid #8884;'
            'border-radius:4px"></iframe>'
        )

    @property
    def view_module(self) -> Views:
        """The module that shows results of this kind."""
        return cast(Views, importlib.import_module(self.views))

    @cached_property
    def report(self) -> Report:
        """What the page shows; drawn once, however often its parts are asked for."""
        return self.view_module.report(self)


def read_values(path: Path) -> dict[str, Any]:
    """The values of a results.json, or of the one in a folder.

    Raises `UserError` where there is none, or no result in it.
    """
    if (path / "config.toml").is_file():
        raise UserError(f"{path} is a training run, no result: lmlab.Run(PATH) opens it")
    path = path / RESULTS if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path} is not there: a command, a study or result.save(FOLDER) writes it")
    try:
        values = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no result can be read from it: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not the values of a result")
    return values


def made_by(environment: Mapping[str, str], source: str = Result.source) -> str:
    """The line at the end of a page."""
    versions = ", ".join(f"{k} {v}" for k, v in environment.items())
    return f"Made by lmlab from {source}. {versions}."


def value_text(value: Any, *, depth: int = 2) -> str:
    """A value in a line, dataclasses down to a depth; empty for arrays."""
    if isinstance(value, str | bool | int):
        return repr(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "bounds"):  # an interval
        return str(value)
    if depth == 0 or not dataclasses.is_dataclass(value):
        return ""
    names = [*getattr(value, "derived", ()), *(f.name for f in dataclasses.fields(value))]
    texts = {name: value_text(getattr(value, name), depth=depth - 1) for name in names}
    values = ", ".join(f"{name}={text}" for name, text in texts.items() if text)
    return f"{type(value).__name__}({values})"


def plain(value: Any) -> Any:
    """A value of a result as JSON has it. Dataclasses become dictionaries of all their fields."""
    if isinstance(value, Result):
        return value.to_json()
    if to_plain := getattr(value, "to_plain", None):  # what is no dataclass
        return plain(to_plain())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if tolist := getattr(value, "tolist", None):  # an array, or a number of numpy
        return plain(tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def _fields(value: Any) -> dict[str, Any]:
    names = [*getattr(value, "derived", ()), *(f.name for f in dataclasses.fields(value))]
    return {name: plain(getattr(value, name)) for name in names}
