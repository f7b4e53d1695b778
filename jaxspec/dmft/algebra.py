r"""Gaussian-vector algebra: what vectors become when random matrices multiply them, in the limit of large dimension.

A vector of a `Space` is a *field*: its coefficients over the Gaussian sources of that space. A `GaussianMatrix` W from
a right space (dimension N2) into a left space (N1) with entries of variance ``s2 / N2`` obeys, for all right fields
``phi^a`` and left fields ``g^b`` it is multiplied with, in causal order and with ``r = N1 / N2``,

    ``W phi^a   = chi^a + sum_b A[a, b] g^b``,    ``Cov(chi^a, chi^c) = s2 <phi^a, phi^c>``,    ``A = s2 d phi / d xi``,
    ``W^T g^b   = xi^b  + sum_a B[b, a] phi^a``,  ``Cov(xi^b, xi^c)   = s2 r <g^b, g^c>``,     ``B = s2 r d g / d chi``,

with ``<x, y> = x . y / dimension``. Any iteration made of such products and linear combinations is exact: training, one
pass over fresh data (`GaussianMatrix.fresh`), momentum, Lanczos. Declare all matrices at once with `connect`; then
every product returns the matrix and the space that gained a source. Shapes never change, so an iteration is a
`jax.lax.scan`; sources not used yet have zero covariance.

Power iteration on W^T W for a square W, from a fixed vector u (``E tr (W^T W)^n / N``: 1, 1, 2, 5, ..., the Catalan
numbers, are the moments ``<u, (W^T W)^n u>``):

    >>> import jax.numpy as jnp
    >>> spaces, matrices = connect({"left": None, "right": jnp.ones((1, 1))}, {"W": Link("left", "right", products=3)})
    >>> left, right, w = spaces["left"], spaces["right"], matrices["W"]
    >>> x = u = right.source(0)
    >>> for _ in range(3):
    ...     w, left, h = w.fwd(x, left, right)
    ...     w, right, x = w.bwd(h, left, right)
    ...     print(float(right.inner(u, x)))
    1.0
    2.0
    5.0
"""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxspec.checks import check_integers, check_numbers
from jaxspec.dmft.bulk import Number
from jaxspec.linalg.normalisation import matmul

_HIGHEST = jax.lax.Precision.HIGHEST


class Space(eqx.Module):
    """Vectors of one dimension, which goes to infinity, as coefficients over Gaussian sources.

    Attributes:
        covariance: of the sources; zero for those not in use yet, (K, K).
    """

    covariance: Float[Array, "K K"]

    @property
    def size(self) -> int:
        """Number of sources, used or not."""
        return self.covariance.shape[0]

    def source(self, index: int | Int[Array, "*n"]) -> Float[Array, "*n K"]:
        """The field that is one source.

        Args:
            index: of the source, or of several; the declared ones come first.
        """
        return jax.nn.one_hot(index, self.size, dtype=self.covariance.dtype)

    def inner(self, x: Float[Array, "*m K"], y: Float[Array, "*n K"]) -> Float[Array, "..."]:
        """``<x, y>`` of every field of ``x`` with every field of ``y``.

        Args:
            x: fields.
            y: fields.

        Returns:
            Inner products, (*m, *n).
        """
        return jnp.tensordot(matmul(x, self.covariance), y, ((-1,), (-1,)), precision=_HIGHEST)


class Link(NamedTuple):
    """Declaration of a matrix.

    Attributes:
        left: name of the space it maps into.
        right: name of the space it maps from.
        products: how often it will be multiplied from either side, in fields.
        aspect: ``r``, dimension of left over right.
        sigma2: ``s2``: entries have variance ``s2 / dimension of right``.
    """

    left: str
    right: str
    products: int
    aspect: Number = 1.0
    sigma2: Number = 1.0


class GaussianMatrix(eqx.Module):
    """A random matrix that remembers what it was multiplied with. Made by `connect`.

    Attributes:
        right_fields: ``phi``, fields it was multiplied with; zero rows are free, (products, K_right).
        left_fields: ``g``, fields its transpose was multiplied with, (products, K_left).
        forward: number of phi so far.
        backward: number of g so far.
        aspect: ``r``.
        sigma2: ``s2``.
        left_slot: static; index of the source chi^0 in the left space.
        right_slot: static; index of the source xi^0 in the right space.
    """

    right_fields: Float[Array, "n K_right"]
    left_fields: Float[Array, "n K_left"]
    forward: Int[Array, ""]
    backward: Int[Array, ""]
    aspect: Float[Array, ""]
    sigma2: Float[Array, ""]
    left_slot: int = eqx.field(static=True)
    right_slot: int = eqx.field(static=True)

    def fwd(
        self, x: Float[Array, "*m K_right"], left: Space, right: Space
    ) -> tuple["GaussianMatrix", Space, Float[Array, "*m K_left"]]:
        """``W x`` for one field or several at once.

        Args:
            x: fields of the right space.
            left: the space they are mapped into.
            right: the space they are from.

        Returns:
            The matrix that remembers ``x``, the left space with new sources, and the fields ``W x``.
        """
        rows = x.reshape(-1, x.shape[-1])
        right_fields = jax.lax.dynamic_update_slice(self.right_fields, rows, (self.forward, 0))
        gram = self.sigma2 * right.inner(rows, right_fields)
        left = _with_sources(left, self.left_slot, self.forward, gram)
        new = left.source(self.left_slot + self.forward + jnp.arange(len(rows)))
        h = new + matmul(self._response_right(rows), self.left_fields)
        matrix = eqx.tree_at(lambda w: (w.right_fields, w.forward), self, (right_fields, self.forward + len(rows)))
        return matrix, left, h.reshape(*x.shape[:-1], left.size)

    def bwd(
        self, y: Float[Array, "*m K_left"], left: Space, right: Space
    ) -> tuple["GaussianMatrix", Space, Float[Array, "*m K_right"]]:
        """``W^T y`` for one field or several at once.

        Args:
            y: fields of the left space.
            left: the space they are from.
            right: the space they are mapped into.

        Returns:
            The matrix that remembers ``y``, the right space with new sources, and the fields ``W^T y``.
        """
        rows = y.reshape(-1, y.shape[-1])
        left_fields = jax.lax.dynamic_update_slice(self.left_fields, rows, (self.backward, 0))
        gram = self.sigma2 * self.aspect * left.inner(rows, left_fields)
        right = _with_sources(right, self.right_slot, self.backward, gram)
        new = right.source(self.right_slot + self.backward + jnp.arange(len(rows)))
        z = new + matmul(self._response_left(rows), self.right_fields)
        matrix = eqx.tree_at(lambda w: (w.left_fields, w.backward), self, (left_fields, self.backward + len(rows)))
        return matrix, right, z.reshape(*y.shape[:-1], right.size)

    def responses(self) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        """``A[a, b] = s2 d phi^a / d xi^b`` and ``B[b, a] = s2 r d g^b / d chi^a`` of all remembered fields."""
        return self._response_right(self.right_fields), self._response_left(self.left_fields)

    def fresh(self) -> "GaussianMatrix":
        """An independent draw of the matrix: it remembers nothing, its future sources are new."""
        empty = (jnp.zeros_like(self.right_fields), jnp.zeros_like(self.left_fields))
        return eqx.tree_at(lambda w: (w.right_fields, w.left_fields), self, empty)

    def _response_right(self, rows):
        return self.sigma2 * rows[:, self.right_slot : self.right_slot + len(self.left_fields)]

    def _response_left(self, rows):
        return self.sigma2 * self.aspect * rows[:, self.left_slot : self.left_slot + len(self.right_fields)]


def connect(
    spaces: Mapping[str, Float[Array, "n n"] | None], links: Mapping[str, Link]
) -> tuple[dict[str, Space], dict[str, GaussianMatrix]]:
    """Spaces with their declared sources, and independent Gaussian matrices between them.

    Args:
        spaces: name -> covariance of the sources that exist before any product, symmetric; None for none.
        links: name -> declaration of a matrix.

    Returns:
        Spaces and matrices under the same names.

    Raises:
        ValueError: a link to no space, ``products < 1``, ``aspect`` or ``sigma2`` not positive.
    """
    dtype = jnp.result_type(float)
    declared = {name: jnp.zeros((0, 0), dtype) if c is None else jnp.asarray(c, dtype) for name, c in spaces.items()}
    sizes = {name: len(covariance) for name, covariance in declared.items()}
    slots = {}
    for name, link in links.items():
        for side in (link.left, link.right):
            if side not in spaces:
                raise ValueError(f"link {name!r} names the space {side!r}; expected one of {sorted(spaces)}")
        check_integers(1, products=link.products)
        check_numbers(0, ends="()", aspect=link.aspect, sigma2=link.sigma2)
        slots[name] = sizes[link.left], sizes[link.right] + (link.products if link.left == link.right else 0)
        sizes[link.left] += link.products
        sizes[link.right] += link.products
    matrices = {
        name: GaussianMatrix(
            jnp.zeros((link.products, sizes[link.right]), dtype),
            jnp.zeros((link.products, sizes[link.left]), dtype),
            jnp.asarray(0),
            jnp.asarray(0),
            jnp.asarray(link.aspect, dtype),
            jnp.asarray(link.sigma2, dtype),
            *slots[name],
        )
        for name, link in links.items()
    }
    grown = {name: Space(jnp.pad(c, (0, sizes[name] - len(c)))) for name, c in declared.items()}
    return grown, matrices


def _with_sources(space, slot, count, gram):
    """The space with covariances ``gram`` of the sources slot + count, ... with those from slot on."""
    covariance = jax.lax.dynamic_update_slice(space.covariance, gram, (slot + count, slot))
    return Space(jax.lax.dynamic_update_slice(covariance, gram.T, (slot, slot + count)))
