"""The centred scatter of several models' features, from one pass over their rows.

A `Scatter` holds (n, mean, sum of (x - mean)(x - mean)^T) of the concatenated features of several
models. Every regression of one model on others follows from it, so no row is kept.

Notable:
- Merging is exact: shards, files and processes give what one pass over all rows gives (Chan, Golub
  and LeVeque 1983: C = C_a + C_b + d d^T a b / n with d the difference of means).
- Rows are gathered into blocks. A block is centred about its own mean in float64, so a large mean
  costs no digits; its products are taken in float64, or in float32 (twice as fast, about seven
  digits); sums over blocks are float64 with Kahan's compensation.
- Only the symmetric half is computed and kept: for each model one strip, itself and those after.
- float32 products limit how near to singular the features may be: see `products` below.

Shapes: N rows, P all features, B rows of a block, D width of a model, m features of a tile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from lmlab.durable import check_seal, from_json, metadata, sealed, write_bytes
from lmlab.errors import UserError

FORMAT = "lmlab scatter 1"
Products = Literal["float32", "float64"]
_BLOCK_BYTES = 1 << 28
_MOST_ROWS, _FEWEST_ROWS = 8192, 1024
_TILE_ROWS, _TILE_COLUMNS = 384, 3072


class Scatter:
    """Count, mean and centred scatter of aligned rows of several models.

    `products` is the type in which a block is multiplied. float32 leaves a relative error of about
    1e-7 of the largest variance in every direction: with features that are nearly linearly
    dependent use float64 (the default), or a ridge well above that.

    Memory: P^2 float64 (half for the sums, half for their compensation), whatever the number of
    rows, and one block of rows.
    """

    def __init__(self, *, products: Products = "float64") -> None:
        self.products: Products = products
        self._widths: dict[str, int] = {}
        self._n = 0
        self._mean_P = torch.zeros(0, dtype=torch.float64)
        self._strips: list[torch.Tensor] = []
        self._lost: list[torch.Tensor] = []
        self._pending: list[list[torch.Tensor]] = []
        self._pending_rows = 0

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._n + self._pending_rows

    @property
    def names(self) -> tuple[str, ...]:
        """The models, in the order of the first call of `update`."""
        return tuple(self._widths)

    @property
    def widths(self) -> dict[str, int]:
        return dict(self._widths)

    def update(self, rows: Mapping[str, Any]) -> None:
        """Adds rows: for each model (N, D), numpy or torch, row k of all of the same text.

        The first call fixes names, their order and widths. Raises `UserError` for other names or
        widths, unequal numbers of rows, or a value that is not finite.
        """
        arrays = {name: _as_rows(name, values) for name, values in rows.items()}
        if not arrays:
            raise UserError("no models: pass at least one array of rows")
        self._fix({name: array.shape[1] for name, array in arrays.items()})
        ordered = [arrays[name] for name in self._widths]
        counts = {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise UserError(f"the models have different numbers of rows: {counts}")
        block = self._block_rows()
        start, rows_here = 0, len(ordered[0])
        while start < rows_here:
            stop = min(rows_here, start + block - self._pending_rows)
            self._pending.append([array[start:stop] for array in ordered])
            self._pending_rows += stop - start
            start = stop
            if self._pending_rows == block:
                self._fold()
        # what waits must not be a view of what the caller may overwrite
        if self._pending:
            self._pending[-1] = [array.clone() for array in self._pending[-1]]

    def merge(self, other: Scatter) -> Scatter:
        """The scatter of the rows of both; neither changes.

        Raises `UserError` where they have other models, orders or widths.
        """
        if not self.n or not other.n:
            return (self if self.n else other)._copy()
        if list(self._widths.items()) != list(other._widths.items()):
            raise UserError(
                f"scatters of {_described(self._widths)} and of {_described(other._widths)} do not "
                "merge: models, order and widths must be the same"
            )
        self._fold()
        other._fold()
        merged = self._copy()
        a, b = self._n, other._n
        difference_P = other._mean_P - self._mean_P
        weight = a * b / (a + b)
        for start, strip, lost, theirs, also_lost in zip(
            merged._starts(), merged._strips, merged._lost, other._strips, other._lost, strict=True
        ):
            width = len(strip)
            for rows in _tiles(0, width, _TILE_ROWS):
                outer = difference_P[start + rows.start : start + rows.stop, None]
                outer = outer * difference_P[None, start:] * weight
                _accumulate(strip[rows], lost[rows], theirs[rows])
                _accumulate(strip[rows], lost[rows], outer)
            lost += also_lost
        merged._n = a + b
        merged._mean_P = self._mean_P + difference_P * (b / (a + b))
        return merged

    def all_reduce(self) -> Scatter:
        """The merge over all processes of `torch.distributed`'s default group, in each of them; of
        one process alone, the scatter itself."""
        if not torch.distributed.is_initialized():
            return self
        self._fold()
        reduced = self._copy()
        total_1 = torch.tensor([self._n], dtype=torch.float64)
        mean_P = self._mean_P * self._n
        torch.distributed.all_reduce(total_1)
        torch.distributed.all_reduce(mean_P)
        mean_P /= total_1
        difference_P = self._mean_P - mean_P
        for start, strip, lost in zip(
            reduced._starts(), reduced._strips, reduced._lost, strict=True
        ):
            strip -= lost
            lost.zero_()
            stop = start + len(strip)
            strip += torch.outer(difference_P[start:stop], difference_P[start:]) * self._n
            torch.distributed.all_reduce(strip)
        reduced._n, reduced._mean_P = int(total_1), mean_P
        return reduced

    def mean(self, names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Mean of the features of these models (default: all), one after the other."""
        self._fold()
        places = self._places()
        chosen = self.names if names is None else self._known(names)
        return np.concatenate([self._mean_P[places[name]].numpy() for name in chosen])

    def covariance(
        self, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> NDArray[np.float64]:
        """Centred scatter / n between models `rows` and `columns` (default: all; the same)."""
        self._fold()
        if not self._n:
            raise UserError("a scatter without rows has no covariance")
        down = self.names if rows is None else self._known(rows)
        across = down if columns is None else self._known(columns)
        covariance = np.empty([sum(self._widths[name] for name in side) for side in (down, across)])
        i = 0
        for a in down:
            j = 0
            for b in across:
                block = self._block(a, b)
                covariance[i : i + len(block), j : j + block.shape[1]] = block.numpy()
                j += block.shape[1]
            i += self._widths[a]
        covariance /= self._n
        return covariance

    def save(self, path: Path) -> None:
        """Writes the scatter as safetensors, all or nothing."""
        self._fold()
        tensors = {"mean": self._mean_P}
        for i, (strip, lost) in enumerate(zip(self._strips, self._lost, strict=True)):
            tensors[f"strip.{i}"] = strip - lost
        described = {
            "format": FORMAT,
            "n": str(self._n),
            "widths": json.dumps(self._widths),
            "products": self.products,
        }
        write_bytes(path, sealed(save(tensors, metadata=described)))

    @classmethod
    def load(cls, path: Path) -> Scatter:
        """What `save` wrote. `UserError` where the file is missing, damaged or something else."""
        try:
            data = check_seal(path.read_bytes())
            tensors = load(data)
            described = metadata(data)
            if described["format"] != FORMAT:
                raise ValueError(f"its format is {described['format']!r}")
            scatter = cls(products=described["products"])
            widths = from_json(described["widths"])
            if sum(widths.values()) != len(tensors["mean"]) or min(widths.values()) < 1:
                raise ValueError("its widths are not those of its means")
            scatter._fix({name: int(width) for name, width in widths.items()})
            scatter._n = int(described["n"])
            for place, kept in (("mean", scatter._mean_P), *_numbered(scatter._strips)):
                if tensors[place].shape != kept.shape:
                    raise ValueError(f"{place} has another shape")
                kept.copy_(tensors[place])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read as a scatter: {error}") from error
        return scatter

    def _fix(self, widths: dict[str, int]) -> None:
        if self._widths:
            if widths != self._widths:
                raise UserError(
                    f"rows of {_described(widths)}; this scatter has {_described(self._widths)}"
                )
            return
        self._widths = widths
        total = sum(widths.values())
        self._mean_P = torch.zeros(total, dtype=torch.float64)
        for start, width in zip(self._starts(), widths.values(), strict=True):
            self._strips.append(torch.zeros((width, total - start), dtype=torch.float64))
            self._lost.append(torch.zeros((width, total - start), dtype=torch.float64))

    def _known(self, names: Sequence[str]) -> list[str]:
        for name in names:
            if name not in self._widths:
                raise UserError(f"no model '{name}' here; there are {', '.join(self._widths)}")
        return list(names)

    def _starts(self) -> list[int]:
        return [place.start for place in self._places().values()]

    def _places(self) -> dict[str, slice]:
        places, start = {}, 0
        for name, width in self._widths.items():
            places[name] = slice(start, start + width)
            start += width
        return places

    def _block_rows(self) -> int:
        size = 4 if self.products == "float32" else 8
        rows = _BLOCK_BYTES // (size * sum(self._widths.values()))
        return min(_MOST_ROWS, max(_FEWEST_ROWS, rows))

    def _copy(self) -> Scatter:
        self._fold()
        copied = Scatter(products=self.products)
        copied._widths, copied._n, copied._mean_P = (
            dict(self._widths),
            self._n,
            self._mean_P.clone(),
        )
        copied._strips = [strip.clone() for strip in self._strips]
        copied._lost = [lost.clone() for lost in self._lost]
        return copied

    def _fold(self) -> None:
        """Adds the pending block."""
        b = self._pending_rows
        if b == 0:
            return
        dtype = torch.float32 if self.products == "float32" else torch.float64
        places = self._places()
        block_BP = torch.empty((b + 1, len(self._mean_P)), dtype=dtype)
        mean_P = torch.empty_like(self._mean_P)
        for i, place in enumerate(places.values()):
            rows_BD = torch.cat([part[i] for part in self._pending])
            mean_P[place] = rows_BD.mean(0, dtype=torch.float64)
            block_BP[:b, place] = _centred(rows_BD, mean_P[place], dtype)
        # As one more row, the step between the means joins the product: d d^T n b / (n + b)
        difference_P = mean_P - self._mean_P
        block_BP[b] = difference_P * (self._n * b / (self._n + b)) ** 0.5
        for start, strip, lost in zip(self._starts(), self._strips, self._lost, strict=True):
            _add_products(block_BP[:, start:], strip, lost)
        self._mean_P += difference_P * (b / (self._n + b))
        self._n += b
        self._pending, self._pending_rows = [], 0

    def _block(self, a: str, b: str) -> torch.Tensor:
        places, order = self._places(), self.names
        first, second = (a, b) if order.index(a) <= order.index(b) else (b, a)
        i = order.index(first)
        offset = places[second].start - places[first].start
        columns = slice(offset, offset + self._widths[second])
        block = self._strips[i][:, columns] - self._lost[i][:, columns]
        if a == b:
            upper = torch.triu(block)
            return upper + torch.triu(block, 1).T
        return block if first == a else block.T


def _as_rows(name: str, values: Any) -> torch.Tensor:
    tensor = torch.as_tensor(values).detach().cpu()
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise UserError(f"model '{name}': rows of shape {tuple(tensor.shape)}; pass (N, D)")
    # the sum is quick to look at, and not finite if a value is not
    if not torch.isfinite(tensor.sum(dtype=torch.float64)) and not torch.isfinite(tensor).all():
        row, column = (~torch.isfinite(tensor)).nonzero()[0].tolist()
        raise UserError(
            f"model '{name}': row {row} has {tensor[row, column].item()} in dimension {column}; "
            "rows must be finite"
        )
    return tensor


def _centred(rows_BD: torch.Tensor, mean_D: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """rows - mean, with the error of `dtype` relative to the difference, however large the mean."""
    if rows_BD.dtype != torch.float32 or dtype != torch.float32:
        return (rows_BD.double() - mean_D).to(dtype)
    near_D = mean_D.float()  # in two steps all is float32, and the first is all but exact
    return rows_BD.sub(near_D).sub_((mean_D - near_D).float())


def _add_products(block_BP: torch.Tensor, strip: torch.Tensor, lost: torch.Tensor) -> None:
    """Adds X^T X of one model with itself and all after it; below the diagonal nothing is done."""
    width, total = strip.shape
    for rows in _tiles(0, width, _TILE_ROWS):
        rows_mB = block_BP[:, rows].T
        for columns in _tiles(rows.start, total, _TILE_COLUMNS):
            product = rows_mB @ block_BP[:, columns]
            _accumulate(strip[rows, columns], lost[rows, columns], product)


def _accumulate(total: torch.Tensor, lost: torch.Tensor, addend: torch.Tensor) -> None:
    """total += addend in place; `lost` holds what rounding has added too much so far (Kahan)."""
    addend = addend.to(torch.float64) - lost
    sums = total + addend
    lost.copy_(sums).sub_(total).sub_(addend)
    total.copy_(sums)


def _tiles(start: int, stop: int, size: int) -> list[slice]:
    return [slice(i, min(stop, i + size)) for i in range(start, stop, size)]


def _numbered(strips: Sequence[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    return [(f"strip.{i}", strip) for i, strip in enumerate(strips)]


def _described(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in widths.items())
