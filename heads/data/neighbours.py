"""Rows whose features are nearly alike: search over whitened features, and clusters of near-duplicates.

Raw cosines do not tell a re-encoded photo from another photo of the same kind of thing: most of a cosine is what all
photos of a set have in common. Whitened features (centred, decorrelated by the set's own covariance plus a ridge, unit
length) do, and a pair counts where its cosine is NEAR above that of the image's tenth neighbour (a one-sided form of
the local scaling of Conneau et al. 2018, "Word translation without parallel data"), so that sets and backbones whose
images all look alike are held to more. `benchmarks/leaks.py` shows what that finds and misses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

NEAR = 0.45  # how far a pair's cosine lies above the ordinary; chosen on the cats and dogs of the README alone
NEIGHBOURS = 10
EXACT_ROWS = 50_000  # above it an inverted file answers, not every product
BLOCK = 4096  # rows that are whitened at a time
PROBED = 16  # cells of the inverted file that a row is looked for in
SAMPLE = 10_000  # rows that the covariance is estimated from
LARGE = 0.05  # a cluster with a larger share of the images is no burst any more

Whiten = Callable[[np.ndarray], np.ndarray]  # features (m, D) -> float32 (m, D), rows of length 1


def across(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find near-duplicates between splits, copies among them.

    parts: features (n, D) of train, validation and test. Returns row numbers over all of them, the later split's and
    the earlier one's, and cosines, most similar first. Above EXACT_ROWS rows in all the search is approximate.
    Memory: a copy of validation and test, and of train where the search is approximate.
    """
    train, validation, _ = parts
    whiten = whitening(parts)
    rest = np.concatenate([whiten(part) for part in parts[1:]])
    approximate = sum(map(len, parts)) > EXACT_ROWS
    cosine, other = nearest(rest, train, whiten, approximate=approximate)
    ordinary = _ordinary(cosine)
    found = [_above(cosine, other, ordinary, len(train), 0)]
    if len(rest) > len(validation):
        approximate = len(validation) > EXACT_ROWS
        cosine, other = nearest(rest[len(validation) :], validation, whiten, approximate=approximate)
        both = len(train) + len(validation)
        found.append(_above(cosine, other, ordinary[len(validation) :], both, len(train)))
    later, earlier, cosines = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(-cosines, kind="stable")
    return later[order], earlier[order], cosines[order]


def _ordinary(cosine: np.ndarray) -> np.ndarray:
    """Return the last of each row's cosines, falling (n, k); capped, so that a burst is not its own measure."""
    return np.minimum(cosine[:, -1], np.quantile(cosine[:, -1], 0.9))


def _above(
    cosine: np.ndarray, other: np.ndarray, ordinary: np.ndarray, offset: int, other_offset: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, at = np.nonzero(cosine > ordinary[:, None] + NEAR)
    return row + offset, other[row, at] + other_offset, cosine[row, at]


def whitening(parts: Sequence[np.ndarray]) -> Whiten:
    """Return what whitens features by the covariance of at most SAMPLE rows of `parts`, evenly spaced.

    The ridge, trace / D + trace / n, keeps the difference between two versions of one photo, which few rows show,
    from being blown up to the size of what tells photos apart.
    """
    step = -(-sum(map(len, parts)) // SAMPLE)
    X = np.concatenate([part[::step] for part in parts])
    n, dim = X.shape
    mean = X.mean(axis=0)
    X -= mean
    covariance = (X.T @ X).astype(np.float64) / n
    trace = max(float(np.trace(covariance)), np.finfo(np.float32).tiny)
    covariance[np.diag_indices(dim)] += trace * (1 / dim + 1 / n)
    with threadpool_limits(1):  # on a busy machine the factorisation's threads wait for each other: 2.6 s, not 0.04 s
        factor = cholesky(covariance, lower=True, overwrite_a=True)
        to_white = solve_triangular(factor, np.eye(dim), lower=True).T.astype(np.float32)

    def whiten(X: np.ndarray) -> np.ndarray:
        Z = np.empty(X.shape, np.float32)
        for start in range(0, len(X), BLOCK):
            block = (X[start : start + BLOCK] - mean) @ to_white
            lengths = np.linalg.norm(block, axis=1, keepdims=True)
            Z[start : start + BLOCK] = block / np.maximum(lengths, np.finfo(np.float32).tiny)
        return Z

    return whiten


def nearest(
    Z: np.ndarray, base: np.ndarray, whiten: Whiten, *, approximate: bool = False, k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (m, k), falling, and row numbers (m, k) of the k rows of `base` that are most like each row of Z.

    Z: whitened (m, D). base: features (n, D), not whitened. k is n where that is less.
    """
    k = min(k, len(base))
    if approximate and len(base) > BLOCK:
        return _inverted_file(Z, base, whiten, k)
    cosine = np.full((len(Z), k), -np.inf, np.float32)
    row = np.zeros((len(Z), k), np.int64)
    for start in range(0, len(base), BLOCK):
        block = whiten(base[start : start + BLOCK]).T
        for top in range(0, len(Z), BLOCK // 4):  # 80 MB of products and their order
            rows = slice(top, top + BLOCK // 4)
            products = Z[rows] @ block
            best = np.argpartition(products, -min(k, products.shape[1]), axis=1)[:, -k:]
            cosines = np.concatenate([cosine[rows], np.take_along_axis(products, best, 1)], axis=1)
            numbers = np.concatenate([row[rows], best + start], axis=1)
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            cosine[rows], row[rows] = np.take_along_axis(cosines, order, 1), np.take_along_axis(numbers, order, 1)
    return cosine, row


def _inverted_file(Z: np.ndarray, base: np.ndarray, whiten: Whiten, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search the PROBED of about 2 sqrt(n) k-means cells that are nearest to each row of Z. Memory: a copy of base."""
    import faiss  # 0.2 s, and only large data need it

    cells = max(1, min(int(2 * np.sqrt(len(base))), len(base) // 40))  # k-means wants 40 rows a cell
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(Z.shape[1]), Z.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 10  # cells need not be the best there are
    index.train(whiten(base[:: max(1, len(base) // (40 * cells))]))
    for start in range(0, len(base), BLOCK):
        index.add(whiten(base[start : start + BLOCK]))
    index.nprobe = PROBED
    cosine, row = index.search(Z, k)
    short = (row < 0).any(axis=1)  # its cells held fewer than k rows
    if short.any():
        index.nprobe = cells
        cosine[short], row[short] = index.search(Z[short], k)
    return cosine, row


def clusters(X: np.ndarray) -> np.ndarray:
    """Number the clusters of near-duplicates among features X (n, D), int (n,); a row like no other has its own number.

    Memory: a copy of X, and another where the search is approximate, which it is above EXACT_ROWS rows.
    """
    if len(X) < 2:
        return np.arange(len(X))
    return joined(*neighbours(whitening([X])(X)))


def neighbours(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (n, k), falling, and row numbers (n, k) of the k other rows most like each of Z, whitened (n, D).

    k is NEIGHBOURS, or n - 1 where that is less.
    """
    n = len(Z)
    cosine, other = nearest(Z, Z, lambda block: block, approximate=n > EXACT_ROWS, k=NEIGHBOURS + 1)
    own = other == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True  # so many rows are just like it that it did not find itself
    return cosine[~own].reshape(n, -1), other[~own].reshape(n, -1)


def joined(cosine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Join the rows that are near-duplicates as measured from both sides; of `neighbours`. Returns as `clusters`."""
    n, ordinary = len(cosine), _ordinary(cosine)
    a, b, found = _above(cosine, other, ordinary, 0, 0)
    both = found > ordinary[b] + NEAR
    graph = coo_array((np.ones(int(both.sum()), np.int8), (a[both], b[both])), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def key(cluster: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a name for each row's cluster, "" for a row like no other, str (n,); and what to say of them."""
    sizes = np.bincount(cluster)
    shared = sizes[sizes > 1]
    said = f"near-duplicates: {shared.sum():,} images in {len(shared):,} groups" + (
        f", the largest of {shared.max():,}" if len(shared) else ""
    )
    if len(shared) and shared.max() > LARGE * len(cluster):
        said += (
            f"; that is {shared.max() / len(cluster):.0%} of the images, so the features may be too weak to tell them "
            "apart: look at leaks.csv of make compare NEAR=0"
        )
    return np.where(sizes[cluster] > 1, cluster.astype(str), ""), said
