"""Linear similarity of two embeddings of the same images: canonical correlations, explained variance, CKA.

All of it follows from the principal components of each embedding and the inner products between those of both.

Letters: N images, D, E widths of two embeddings, R, S their ranks, K canonical correlations, the smaller of R and S.

With N <= R + S some canonical correlations are 1 for any embeddings, with N <= D all are; use N >= 10 max(D, E), and
compare with shuffled pairs (`Pair.shuffled`), whose correlations come from the finite N alone.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-6  # relative to an embedding's norm: smaller variation is float32 noise
_CORRELATIONS = 128  # that random pairs have at least; the fewer there are, the more their mean varies


class Constant(ValueError):
    """Raised for an embedding that doesn't vary, so that it has no correlation with anything."""


class Components(NamedTuple):
    """The principal components of an embedding: directions @ diag(sizes) @ axes is the centred embedding."""

    directions: Tensor  # (N, R), orthonormal columns
    sizes: Tensor  # (R,), singular values, largest first: their squares share out the variance
    axes: Tensor  # (R, D), orthonormal rows

    def count(self, variance: float) -> int:
        """Returns the number of components that hold this share of the variance, the fewest."""
        held = self.sizes.square().cumsum(0)
        return min(len(held), int((held < variance * held[-1]).sum()) + 1)


def components(x: Tensor, size: float) -> Components:
    """Returns the principal components, float64, of (N, D) that is centred or whose mean is known to be 0.

    Variation below 1e-6 of `size`, the norm of the embedding that was centred, counts as rounding; therefore constant
    and linearly dependent dimensions don't count towards the rank. Raises Constant if nothing else is left.
    """
    q, r = torch.linalg.qr(x.double())
    u, sizes, axes = torch.linalg.svd(r, full_matrices=False)
    rank = int((sizes > _ROUNDING * size).sum())
    if rank == 0:
        raise Constant("an embedding is the same for all images: it has no correlation with anything")
    return Components(q @ u[:, :rank], sizes[:rank], axes[:rank])


def centred(x: Tensor) -> Components:
    """Returns the principal components of an embedding (N, D). Raises Constant."""
    x = x.double()
    return components(x - x.mean(0), float(x.norm()))


def correlations(a: Tensor, b: Tensor, variance: float = 1.0) -> Tensor:
    """Returns the canonical correlations of (N, D) and (N, E), float64, largest first: (K,).

    With `variance` below 1, each embedding is first reduced to the fewest principal components that hold this share of
    its variance (SVCCA). Raises Constant.
    """
    return Pair(centred(a), centred(b)).correlations(variance)


class Pair:
    """Two embeddings of the same images, by the principal components of each.

    `shared` (R, S) holds the inner products of the first's directions and the second's; by default those of images in
    the same order.
    """

    def __init__(self, first: Components, second: Components, shared: Tensor | None = None):
        self.first, self.second = first, second
        self.shared = first.directions.T @ second.directions if shared is None else shared

    def shuffled(self, generator: torch.Generator) -> "Pair":
        """Returns the same embeddings with the images of the second permuted at random."""
        order = torch.randperm(len(self.second.directions), generator=generator)
        return Pair(self.first, self.second, self.first.directions.T @ self.second.directions[order])

    def correlations(self, variance: float = 1.0) -> Tensor:
        """Returns the canonical correlations, largest first.

        With `variance` below 1, those of the principal components that hold this share of each embedding's variance:
        SVCCA (Raghu et al., NeurIPS 2017).
        """
        if variance == 1:
            return self._canonical[1]
        rows, columns = self.first.count(variance), self.second.count(variance)
        return torch.linalg.svdvals(self.shared[:rows, :columns]).clamp(max=1)

    def weighted(self) -> tuple[float, float]:
        """Returns the mean canonical correlation weighted by the first embedding's use of each, and by the second's.

        The weight of a canonical direction is the sum of the absolute inner products with the embedding's dimensions:
        PWCCA (Morcos et al., NeurIPS 2018), sec. 2.2.
        """
        left, found, right = self._canonical
        sides = ((left.T, self.first), (right, self.second))
        weights = [((canonical * of.sizes) @ of.axes).abs().sum(1) for canonical, of in sides]
        of_first, of_second = (float((w * found).sum() / w.sum()) for w in weights)
        return of_first, of_second

    def explained(self) -> tuple[float, float]:
        """Returns the share of the second's variance that the best linear map from the first explains, and the reverse.

        This is R2 over all dimensions together, on the images that the map is fitted to, so of shuffled pairs it is
        about R / N and S / N.
        """
        squares = self.shared.square()
        first, second = (of.sizes.square() / of.sizes.square().sum() for of in (self.first, self.second))
        return float(squares.sum(0) @ second), float(squares.sum(1) @ first)

    def cka(self) -> float:
        """Returns the linear centred kernel alignment (Kornblith et al., ICML 2019), eq. 5 and table 1."""
        first, second = (of.sizes.square() / of.sizes.square().norm() for of in (self.first, self.second))
        return float(first @ self.shared.square() @ second)

    @functools.cached_property
    def _canonical(self) -> tuple[Tensor, Tensor, Tensor]:
        """The canonical directions of the first (R, K), the correlations (K,), the directions of the second (K, S)."""
        left, found, right = torch.linalg.svd(self.shared, full_matrices=False)
        return left, found.clamp(max=1), right


def random_pairs(pair: Pair, dimensions: int, generator: torch.Generator) -> list[Pair]:
    """Returns pairs of embeddings of the same variances whose directions are random.

    They are linear maps of `dimensions` white features for infinitely many images: the first's directions span a fixed
    subspace, the second's are uniformly distributed. There are as many as it takes to draw 128 correlations; their mean
    correlation is near 2 / pi for subspaces of half the dimensions. There are none for an embedding whose rank exceeds
    `dimensions`.
    """
    rows, columns = pair.shared.shape
    made: list[Pair] = []
    if max(rows, columns) > dimensions:
        return made
    for _ in range(math.ceil(_CORRELATIONS / min(rows, columns))):
        normal = torch.randn(dimensions, columns, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(normal)
        uniform = q * r.diagonal().sign()
        made.append(Pair(pair.first, pair.second, uniform[:rows]))
    return made
