"""Network simplex for transport on a sparse graph. Import this module lazily: it loads numba.

A tree spans the n rows, the m columns (nodes n … n + m − 1) and an artificial root (node n + m).
All mass flows on its arcs: arc ``arc[v]`` joins node v to its parent and carries ``flow[v]``, in
whole units, upwards if ``up[v]``. Arcs 0 … E − 1 lead from a row to a column; a negative number is
the artificial arc between a node and the root. The tree is kept in preorder, as a ring
(``after``, ``before``), with the size and the last node of every subtree, so that moving a subtree
costs no more than the paths that it touches, and its potentials are shifted in one walk.

It is *strongly feasible*: arcs without flow point to the root. Together with the choice of the
leaving arc in `_leaving` this makes the number of pivots finite (Cunningham, 1976, "A network
simplex method").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cellflow._numba import compiled


class Tree(NamedTuple):
    """The spanning tree; every field has one entry for each of the n + m + 1 nodes."""

    parent: Any
    after: Any
    before: Any
    last: Any
    size: Any
    arc: Any
    up: Any
    flow: Any
    potential: Any


def empty_tree(nodes: int) -> Tree:
    """Return a tree to be filled by `grow`."""
    links = [np.full(nodes, -1, np.int32) for _ in range(6)]
    rest = [np.zeros(nodes, np.bool_), np.zeros(nodes, np.int64), np.zeros(nodes)]
    return Tree._make([*links, *rest])


@compiled
def _forest(row, col, order, left, arcs, amounts):
    """Send what is left along arcs in `order`; the arcs used make a forest. Return their count."""
    n = left.size - 1  # one spare entry for the root
    used = 0
    for e in order:
        i, j = row[e], col[e]
        amount = min(left[i], left[j])
        if amount > 0:
            left[i] -= amount
            left[j] -= amount
            arcs[used] = e
            amounts[used] = amount
            used += 1
            if used == n:
                break
    return used


@compiled
def grow(tree, row, col, n, mass, order):
    """Fill the tree: arcs taken greedily in `order`, what remains of each part through the root."""
    nodes = len(mass) + 1
    root = nodes - 1
    left = np.zeros(nodes, np.int64)
    left[:root] = mass
    arcs, amounts = np.empty(root, np.int64), np.empty(root, np.int64)
    used = _forest(row, col, order, left, arcs, amounts)
    begin = np.zeros(nodes + 1, np.int64)
    for q in range(used):
        begin[row[arcs[q]] + 1] += 1
        begin[col[arcs[q]] + 1] += 1
    for v in range(nodes):
        begin[v + 1] += begin[v]
    beside, place = np.empty(2 * used, np.int64), begin.copy()
    for q in range(used):
        for v in (row[arcs[q]], col[arcs[q]]):
            beside[place[v]] = q
            place[v] += 1
    # Each part has at most one node with mass left (every arc emptied one); it hangs from there.
    stack = np.empty(nodes, np.int64)
    sequence = np.empty(nodes, np.int64)
    sequence[0] = root
    count = 1
    tree.parent[root] = -1
    tree.arc[root] = 0
    for turn in range(2):
        for start in range(root):
            if tree.parent[start] >= 0 or (turn == 0 and left[start] == 0):
                continue
            tree.parent[start] = root
            tree.arc[start] = -1
            tree.flow[start] = left[start]
            tree.up[start] = start < n or left[start] == 0
            stack[0] = start
            top = 1
            while top > 0:
                top -= 1
                v = stack[top]
                sequence[count] = v
                count += 1
                for k in range(begin[v], begin[v + 1]):
                    q = beside[k]
                    w = col[arcs[q]] if v < n else row[arcs[q]]
                    if tree.parent[w] < 0:
                        tree.parent[w] = v
                        tree.arc[w] = arcs[q]
                        tree.flow[w] = amounts[q]
                        tree.up[w] = w < n
                        stack[top] = w
                        top += 1
    _thread(tree, sequence)


@compiled
def _thread(tree, sequence):
    """Link the nodes in preorder."""
    nodes = len(sequence)
    for k in range(nodes):
        v = sequence[k]
        tree.after[v] = sequence[k + 1] if k + 1 < nodes else sequence[0]
        tree.before[v] = sequence[k - 1] if k > 0 else sequence[nodes - 1]
        tree.size[v] = 1
        tree.last[v] = v
    for k in range(nodes - 1, 0, -1):
        v = sequence[k]
        p = tree.parent[v]
        tree.size[p] += tree.size[v]
        if tree.last[p] == p:  # the last child comes first here
            tree.last[p] = tree.last[v]


@compiled
def price(tree, cost, through_root):
    """Set potentials from the root down, so that no arc of the tree has a reduced cost."""
    v = np.int64(tree.after[len(tree.parent) - 1])
    tree.potential[len(tree.parent) - 1] = 0.0
    for _ in range(len(tree.parent) - 1):
        e = tree.arc[v]
        c = through_root[v] if e < 0 else cost[e]
        p = tree.potential[tree.parent[v]]
        tree.potential[v] = p - c if tree.up[v] else p + c
        v = tree.after[v]


@compiled
def _leaving(tree, p, q):
    """Find where the cycle of an arc p → q first empties; return join, node, amount, and side."""
    at_p, at_q = -1, -1
    least_p, least_q = np.int64(2**62), np.int64(2**62)
    a, b = p, q
    while a != b:
        if tree.size[a] <= tree.size[b]:
            if tree.up[a] and tree.flow[a] < least_p:
                least_p, at_p = tree.flow[a], a
            a = np.int64(tree.parent[a])
        else:
            if not tree.up[b] and tree.flow[b] <= least_q:
                least_q, at_q = tree.flow[b], b
            b = np.int64(tree.parent[b])
    if least_p < least_q:
        return a, at_p, least_p, True
    return a, at_q, least_q, False


@compiled
def _push(tree, p, q, join, amount):
    """Send `amount` around the cycle of an arc p → q."""
    v = p
    while v != join:
        tree.flow[v] += -amount if tree.up[v] else amount
        v = np.int64(tree.parent[v])
    v = q
    while v != join:
        tree.flow[v] += amount if tree.up[v] else -amount
        v = np.int64(tree.parent[v])


@compiled
def _cut(tree, out, join):
    """Take the subtree of `out` out of the preorder and the sizes below `join`."""
    old, end, total = np.int64(tree.before[out]), tree.last[out], tree.size[out]
    following = tree.after[end]
    tree.after[old] = following
    tree.before[following] = old
    v = np.int64(tree.parent[out])
    while v >= 0 and tree.last[v] == end:
        tree.last[v] = old
        v = np.int64(tree.parent[v])
    v = np.int64(tree.parent[out])
    while v != join:
        tree.size[v] -= total
        v = np.int64(tree.parent[v])


@compiled
def _hang(tree, first, out, under, arc, up, amount):
    """Turn the subtree of `out` so that `first` is on top; its preorder. Return its last node."""
    total = tree.size[out]
    x, above = first, under
    tail = np.int64(tree.last[x])
    end, old, following = tail, np.int64(tree.before[x]), np.int64(tree.after[tail])
    size = total
    while True:
        next_x, next_arc, next_up, next_amount = (
            np.int64(tree.parent[x]),
            np.int64(tree.arc[x]),
            not tree.up[x],
            tree.flow[x],
        )
        next_size = total - tree.size[x]
        tree.parent[x], tree.arc[x], tree.up[x], tree.flow[x] = above, arc, up, amount
        tree.size[x] = size
        if x == out:
            break
        above, x, arc, up, amount, size = x, next_x, next_arc, next_up, next_amount, next_size
        # Behind what was placed: x and its nodes before the last one placed, then those after it.
        x_end, x_old = np.int64(tree.last[x]), np.int64(tree.before[x])
        x_following = following if x_end == end else np.int64(tree.after[x_end])
        tree.after[tail] = x
        tree.before[x] = tail
        tail = old
        if x_end != end:
            tree.after[tail] = following
            tree.before[following] = tail
            tail = x_end
        end, old, following = x_end, x_old, x_following
    x = out
    while x != under:  # from the old top down to the new one
        tree.last[x] = tail
        x = np.int64(tree.parent[x])
    return tail


@compiled
def _join(tree, first, tail, under, join):
    """Put a turned subtree into the preorder behind `under`, and into the sizes below `join`."""
    following = tree.after[under]
    tree.after[under] = first
    tree.before[first] = under
    tree.after[tail] = following
    tree.before[following] = tail
    v = under
    while v >= 0 and tree.last[v] == under:
        tree.last[v] = tail
        v = np.int64(tree.parent[v])
    v = under
    while v != join:
        tree.size[v] += tree.size[first]
        v = np.int64(tree.parent[v])


@compiled
def pivot(tree, row, col, cost, tolerance, block, limit):
    """Pivot until no reduced cost is below ``-tolerance``; return pivots, or −1 at `limit`."""
    arcs = len(row)
    potential = tree.potential
    at = 0
    for count in range(limit + 1):
        least, enter, seen = -tolerance, -1, 0
        while seen < arcs and enter < 0:
            end = min(at + block, arcs)
            for e in range(at, end):
                value = cost[e] + potential[row[e]] - potential[col[e]]
                if value < least:
                    least, enter = value, e
            seen += end - at
            at = end if end < arcs else 0
        if enter < 0:
            return count
        p, q = np.int64(row[enter]), np.int64(col[enter])
        join, out, amount, at_p = _leaving(tree, p, q)
        if amount > 0:
            _push(tree, p, q, join, amount)
        first, under = (p, q) if at_p else (q, p)
        _cut(tree, out, join)
        tail = _hang(tree, first, out, under, enter, at_p, amount)
        _join(tree, first, tail, under, join)
        shift = -least if at_p else least
        x = first
        for _ in range(tree.size[first]):
            potential[x] += shift
            x = np.int64(tree.after[x])
    return -1
