"""The scatter against numpy's covariance of all rows, however they are cut, merged or kept.

Shapes: N rows, D width.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlab.errors import UserError
from lmlab.numerics import scatter as scatter_module
from lmlab.numerics.scatter import Scatter


def features(n: int, widths: dict[str, int], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Correlated features with means far from zero."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 3))
    return {
        name: common @ rng.normal(size=(3, d)) + rng.normal(size=(n, d)) + 10 * rng.normal(size=d)
        for name, d in widths.items()
    }


def of_rows(rows, **options) -> Scatter:
    made = Scatter(**options)
    made.update(rows)
    return made


def part(rows, start, stop):
    return {name: values[start:stop] for name, values in rows.items()}


def together(rows, names=None):
    return np.concatenate([rows[name] for name in names or rows], axis=1)


def same(made: Scatter, rows, tolerance=1e-13) -> None:
    x_NP = together(rows)
    assert made.n == len(x_NP)
    np.testing.assert_allclose(made.mean(), x_NP.mean(0), rtol=1e-13, atol=1e-13)
    expected = np.atleast_2d(np.cov(x_NP.T, bias=True))
    np.testing.assert_allclose(
        made.covariance(), expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 2**32 - 1),
)
def test_any_split_merged_in_any_order_is_the_whole(widths, sizes, seed):
    names = {f"m{i}": d for i, d in enumerate(widths)}
    rows = features(sum(sizes) + 1, names, seed=seed)
    cuts = [0, *np.cumsum(sizes).tolist(), sum(sizes) + 1]
    parts = [of_rows(part(rows, a, b)) for a, b in itertools.pairwise(cuts)]
    order = np.random.default_rng(seed).permutation(len(parts))
    merged = Scatter()
    for i in order:
        merged = merged.merge(parts[i])
    same(merged, rows, tolerance=1e-12)
    streamed = Scatter()
    for a, b in itertools.pairwise(cuts):
        streamed.update(part(rows, a, b))
    same(streamed, rows, tolerance=1e-12)


def test_blocks_and_tiles_of_any_size_give_the_same(monkeypatch):
    widths = {"a": 5, "b": 13, "c": 1}
    rows = features(501, widths)
    monkeypatch.setattr(scatter_module, "_FEWEST_ROWS", 64)
    monkeypatch.setattr(scatter_module, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(scatter_module, "_TILE_ROWS", 4)
    monkeypatch.setattr(scatter_module, "_TILE_COLUMNS", 6)
    made = Scatter()
    for start in range(0, 501, 50):
        made.update(part(rows, start, start + 50))
    same(made, rows)
    # any block, either way round
    for a in widths:
        for b in widths:
            x, y = rows[a] - rows[a].mean(0), rows[b] - rows[b].mean(0)
            np.testing.assert_allclose(made.covariance([a], [b]), x.T @ y / 501, atol=1e-12)
    chosen = ["c", "a"]
    np.testing.assert_allclose(made.mean(chosen), together(rows, chosen).mean(0))
    expected = np.cov(together(rows, chosen).T, bias=True)
    np.testing.assert_allclose(made.covariance(chosen), expected, atol=1e-12)


def test_a_covariance_is_exactly_symmetric():
    made = of_rows(features(300, {"a": 40, "b": 30}))
    assert np.array_equal(made.covariance(), made.covariance().T)
    assert np.array_equal(made.covariance(["b"], ["a"]), made.covariance(["a"], ["b"]).T)


def test_a_mean_of_a_million_costs_no_digits():
    rows = features(400, {"a": 6, "b": 4})
    # exactly representable, so that the shifted rows have the same deviations
    rows = {name: np.round(values * 1024) / 1024 for name, values in rows.items()}
    shifted = {name: values + 2.0**20 for name, values in rows.items()}
    expected = of_rows(rows).covariance()
    np.testing.assert_allclose(of_rows(shifted).covariance(), expected, rtol=0, atol=1e-11)
    single = of_rows(shifted, products="float32").covariance()
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6 * expected.max())


def test_compensation_keeps_what_plain_sums_lose():
    total, lost = torch.full((1,), 1e16, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for _ in range(1000):
        scatter_module._accumulate(total, lost, torch.ones(1, dtype=torch.float64))
    assert float(total - lost) == 1e16 + 1000
    assert sum([1.0] * 1000, 1e16) != 1e16 + 1000


def test_float32_products_are_close_and_the_sums_float64():
    rows = features(5000, {"a": 20, "b": 12})
    made = of_rows({k: v.astype(np.float32) for k, v in rows.items()}, products="float32")
    same(made, {k: v.astype(np.float32).astype(np.float64) for k, v in rows.items()}, 1e-6)


def test_torch_rows_in_any_type_and_rows_that_change_afterwards():
    rows = features(20, {"a": 4})
    buffer = torch.tensor(rows["a"])
    made = Scatter()
    made.update({"a": buffer})
    buffer.zero_()
    same(made, rows)
    half = torch.tensor(rows["a"]).to(torch.bfloat16)
    same(of_rows({"a": half}), {"a": half.double().numpy()})


def test_saved_and_loaded_is_the_same_and_goes_on(tmp_path):
    rows = features(90, {"a": 4, "b": 7})
    made = of_rows(part(rows, 0, 50))
    made.save(tmp_path / "s.safetensors")
    loaded = Scatter.load(tmp_path / "s.safetensors")
    assert loaded.names == ("a", "b")
    assert np.array_equal(loaded.covariance(), made.covariance())
    loaded.update(part(rows, 50, 90))
    same(loaded, rows)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(UserError, match=r"s\.safetensors: cannot be read as a scatter"):
        Scatter.load(path)
    of_rows(features(9, {"a": 4})).save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="cannot be read"):
        Scatter.load(path)
    from safetensors.numpy import save

    path.write_bytes(save({"x": np.ones(3)}))
    with pytest.raises(UserError, match="cannot be read"):
        Scatter.load(path)


def test_merging_leaves_both_and_an_empty_one_adds_nothing():
    rows = features(30, {"a": 3})
    a, b = of_rows(part(rows, 0, 10)), of_rows(part(rows, 10, 30))
    before = a.covariance()
    same(a.merge(b), rows)
    assert np.array_equal(a.covariance(), before)
    assert a.n == 10
    assert np.array_equal(a.merge(Scatter()).covariance(), before)
    assert np.array_equal(Scatter().merge(a).covariance(), before)


def test_what_does_not_fit_is_refused():
    rows = features(5, {"a": 3, "b": 2})
    made = of_rows(rows)
    with pytest.raises(UserError, match=r"this scatter has a \(3\), b \(2\)"):
        made.update({"a": rows["a"]})
    with pytest.raises(UserError, match="different numbers of rows"):
        made.update({"a": rows["a"], "b": rows["b"][:2]})
    bad = rows["a"].copy()
    bad[2, 1] = np.nan
    with pytest.raises(UserError, match="row 2 has nan in dimension 1"):
        made.update({"a": bad, "b": rows["b"]})
    assert made.n == 5
    with pytest.raises(UserError, match="do not merge"):
        made.merge(of_rows({"b": rows["b"], "a": rows["a"]}))
    with pytest.raises(UserError, match=r"pass \(N, D\)"):
        Scatter().update({"a": np.ones(3)})
    with pytest.raises(UserError, match="no models"):
        Scatter().update({})
    with pytest.raises(UserError, match="without rows"):
        Scatter().covariance()
    with pytest.raises(UserError, match="no model 'c'"):
        made.covariance(["c"])


_PROCESS = """
import sys
import lmlab
import numpy as np
import torch
from lmlab.numerics.scatter import Scatter

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
)
rows = np.load(f"{folder}/rows.npy")
mine = rows[:7] if rank == 0 else rows[7:]
made = Scatter()
made.update({"a": mine[:, :2], "b": mine[:, 2:]})
made.all_reduce().save(__import__("pathlib").Path(f"{folder}/{rank}.safetensors"))
torch.distributed.destroy_process_group()
"""


def test_processes_add_up(tmp_path: Path):
    rows = features(40, {"a": 2, "b": 5})
    np.save(tmp_path / "rows.npy", together(rows))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
    for rank in range(2):
        same(Scatter.load(tmp_path / f"{rank}.safetensors"), rows)
