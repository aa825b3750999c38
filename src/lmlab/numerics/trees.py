"""Unrooted trees over leaves: neighbour joining, splits, quartets, Newick.

- Neighbour joining (Saitou and Nei 1987, Mol. Biol. Evol. 4; the criterion of Studier and Keppler
  1988) gives back every tree whose path lengths the distances are, each branch with its length.
  Of other distances a branch may come out below zero; it is left as it is.
- A split is what one inner branch says: which leaves are on the side without leaf 0. It is kept as
  an integer, bit i for leaf i, so that trees are compared by sets of them.
- Four leaves have three resolved trees. Of a quartet a, b, c, d (ascending) topology 0 is ab|cd, 1
  is ac|bd, 2 is ad|bc, and -1 says that the tree does not resolve it.

Shapes: L leaves, Q quartets, S splits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmlab.errors import UserError

_TOKEN = re.compile(r"\s*([(),;]|'(?:[^']|'')*'|[^\s(),;']+)")
_LENGTH = re.compile(r":[-+0-9.eE]+$")


@dataclass(frozen=True)
class Tree:
    """An unrooted tree; nodes below `leaves` are the leaves."""

    leaves: int
    branches: tuple[tuple[int, int, float], ...]
    """Node, node, length."""

    def splits(self) -> dict[int, int]:
        """The split of each inner branch, by the number of the branch."""
        towards = _beyond(self)
        inner = ((b, towards[b]) for b in range(len(self.branches)))
        whole = (1 << self.leaves) - 1
        return {
            b: split if not split & 1 else whole ^ split
            for b, split in inner
            if 1 < split.bit_count() < self.leaves - 1
        }

    def newick(self, names: Sequence[str]) -> str:
        """The tree with its lengths, from the last node."""
        around = neighbours_of(self)

        def below(node: int, came: int | None) -> str:
            parts = [
                f"{below(other, branch)}:{length:.6g}"
                for other, branch, length in around[node]
                if branch != came
            ]
            inside = f"({','.join(parts)})" if parts else ""
            return inside + (_quoted(names[node]) if node < self.leaves else "")

        return f"{below(max(around), None)};"


def neighbour_joining(distances_LL: ArrayLike) -> Tree:
    """The tree that neighbour joining makes of symmetric distances.

    Joins of equal worth go by the order of the leaves. Raises `UserError` for fewer than three
    leaves, or distances that are not finite.
    """
    d = np.array(distances_LL, np.float64)
    leaves = len(d)
    assert d.shape == (leaves, leaves)
    assert np.allclose(d, d.T)
    if leaves < 3:
        raise UserError(f"{leaves} leaves make no tree; give at least 3")
    if not np.isfinite(d).all():
        raise UserError("a distance is not finite")
    nodes = list(range(leaves))
    branches: list[tuple[int, int, float]] = []
    while (n := len(nodes)) > 3:
        total_n = d.sum(1)
        worth_nn = (n - 2) * d - total_n[:, None] - total_n[None]
        worth_nn[np.tril_indices(n)] = np.inf
        a, b = divmod(int(worth_nn.argmin()), n)
        to_a = float(d[a, b] / 2 + (total_n[a] - total_n[b]) / (2 * (n - 2)))
        new = 2 * leaves - n
        branches += [(nodes[a], new, to_a), (nodes[b], new, float(d[a, b]) - to_a)]
        joined_n = (d[a] + d[b] - d[a, b]) / 2
        kept = [i for i in range(n) if i not in (a, b)]
        d = np.block([[d[np.ix_(kept, kept)], joined_n[kept, None]], [joined_n[None, kept], 0.0]])
        nodes = [*(nodes[i] for i in kept), new]
    centre = 2 * leaves - 3
    for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        branches.append((nodes[i], centre, float(d[i, j] + d[i, k] - d[j, k]) / 2))
    return Tree(leaves, tuple(branches))


def path_lengths(tree: Tree) -> NDArray[np.float64]:
    """Sums of branch lengths between the leaves (L, L)."""
    lengths_LL = np.zeros((tree.leaves, tree.leaves))
    for (_, _, length), split in zip(tree.branches, _beyond(tree), strict=True):
        beyond_L = np.array([split >> i & 1 for i in range(tree.leaves)], bool)
        lengths_LL += length * (beyond_L[:, None] ^ beyond_L[None])
    return lengths_LL


def quartets(leaves: int) -> NDArray[np.int64]:
    """All fours of leaves, ascending (Q, 4)."""
    return np.array(list(combinations(range(leaves), 4)), np.int64).reshape(-1, 4)


def topologies(splits: Sequence[int], quartets_Q4: NDArray[np.int64]) -> NDArray[np.int64]:
    """The topology of each quartet (Q,) in the tree of these splits."""
    topology_Q = np.full(len(quartets_Q4), -1)
    leaves = int(quartets_Q4.max(initial=-1)) + 1
    for split in splits:
        side_L = np.array([split >> i & 1 for i in range(leaves)])
        a, b, c, d = side_L[quartets_Q4].T
        two = a + b + c + d == 2
        for topology, partner in enumerate((b, c, d)):
            topology_Q[two & (a == partner)] = topology
    return topology_Q


def quartet_accuracy(truth_Q: NDArray[np.int64], found_Q: NDArray[np.int64]) -> float:
    """Of the quartets that the true tree resolves, the share on which the other agrees."""
    resolved_Q = truth_Q >= 0
    return float((found_Q[resolved_Q] == truth_Q[resolved_Q]).mean())


def newick_splits(text: str, names: Sequence[str]) -> list[int]:
    """The splits of a tree in Newick form over `names`, each once; lengths and the names of inner
    nodes are passed over, and a root counts for nothing.

    Raises `UserError` for text that is no such tree, and for leaves that are not `names`.
    """
    groups, seen = _read(text, names)
    missing = [name for i, name in enumerate(names) if i not in seen]
    if missing:
        raise UserError(f"the tree {text!r} lacks {', '.join(missing)}")
    whole = (1 << len(names)) - 1
    sides = (group if not group & 1 else whole ^ group for group in groups)
    return sorted({side for side in sides if 1 < side.bit_count() < len(names) - 1})


def members(split: int, names: Sequence[str]) -> list[str]:
    """The names on the side of a split that leaf 0 is not on."""
    return [name for i, name in enumerate(names) if split >> i & 1]


def _read(text: str, names: Sequence[str]) -> tuple[list[int], set[int]]:
    """Leaves below each pair of brackets, and which leaves there are."""
    numbers = {name: i for i, name in enumerate(names)}
    groups: list[int] = []
    seen: set[int] = set()
    open_groups: list[int] = []
    before = ""
    at = 0
    for match in _TOKEN.finditer(text.strip().rstrip(";")):
        if match.start() != at:
            break
        at, token = match.end(), match[1]
        if token == "(":
            if before not in ("", "(", ","):
                raise _no_tree(text)
            open_groups.append(0)
        elif token in (",", ")"):
            if not open_groups or before in ("", "(", ","):
                raise _no_tree(text)
            if token == ")":
                groups.append(open_groups.pop())
                if open_groups:
                    open_groups[-1] |= groups[-1]
        elif before != ")":  # behind a bracket stands the name or length of an inner node
            leaf = token[1:-1].replace("''", "'") if token[0] == "'" else token
            leaf = leaf if leaf in numbers else _LENGTH.sub("", leaf)
            if not open_groups or before not in ("(", ","):
                raise _no_tree(text)
            if leaf not in numbers:
                raise UserError(f"the tree names {leaf!r}; the models are {', '.join(names)}")
            if numbers[leaf] in seen:
                raise UserError(f"the tree {text!r} has {leaf} twice")
            seen.add(numbers[leaf])
            open_groups[-1] |= 1 << numbers[leaf]
        before = token
    if at != len(text.strip().rstrip(";")) or open_groups or not groups:
        raise _no_tree(text)
    return groups, seen


def _no_tree(text: str) -> UserError:
    return UserError(f"{text!r} is no tree; write one as ((a,b),(c,d)), all brackets closed")


def _quoted(name: str) -> str:
    plain = re.fullmatch(r"[^\s(),;:']+", name)
    return name if plain else "'" + name.replace("'", "''") + "'"


def neighbours_of(tree: Tree) -> dict[int, list[tuple[int, int, float]]]:
    """Of each node: the nodes around it, the branch to each and its length."""
    around: dict[int, list[tuple[int, int, float]]] = {}
    for branch, (a, b, length) in enumerate(tree.branches):
        around.setdefault(a, []).append((b, branch, length))
        around.setdefault(b, []).append((a, branch, length))
    return around


def _beyond(tree: Tree) -> list[int]:
    """Of each branch the leaves on the side of its first node."""
    around = neighbours_of(tree)

    def leaves_at(node: int, came: int) -> int:
        own = 1 << node if node < tree.leaves else 0
        for other, branch, _ in around[node]:
            if branch != came:
                own |= leaves_at(other, branch)
        return own

    return [leaves_at(a, branch) for branch, (a, _, _) in enumerate(tree.branches)]
