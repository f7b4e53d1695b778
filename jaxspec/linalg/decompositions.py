"""The LAPACK-backed factorisations: the only module of `jaxspec` that calls ``eigh``, ``svd`` or ``qr``.

On the CPU backend several *independent* ``eigh`` calls inside one compiled loop body can wait on each other for ever:
the scheduler starts them at once on the thread pool each of them also fans out into. At most one may be in flight.
Equal shapes belong into one batch; for unequal shapes `ordered` (or the argument ``after``) makes the second wait for
the first through a true data dependency, which the compiler cannot remove, unlike an optimisation barrier.

LAPACK brings threads of its own, which spin while they wait. Set the environment variable ``OPENBLAS_NUM_THREADS=1``
before Python starts wherever several processes share the cores (measured: three 100 x 100 batches, two processes on two
cores, 0.3 seconds instead of 14 to 27 for twenty steps; alone no difference), and on hosts with very many cores, where
a batched ``eigh`` can crash. Call ``jax.block_until_ready`` on results before handing them to multi-threaded NumPy
code.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree, Shaped

from jaxspec.linalg.scaling import conjugate_transpose


def ordered(x: Inexact[Array, "..."], after: PyTree[Shaped[Array, "..."]] | None) -> Inexact[Array, "..."]:
    """``x``, bit for bit, but computed only once ``after`` has been computed.

    ``x + z`` with ``z = -0.0`` derived from one entry of each array in ``after``; an entry that is infinite or NaN
    still gives ``z = -0.0``. No derivative flows into ``after``.

    Args:
        x: array of any shape.
        after: array, pytree of arrays, or None (then ``x`` is returned as it is). Empty arrays are ignored.

    Returns:
        An array equal to ``x``.

    Example:
        >>> import jax.numpy as jnp
        >>> ordered(jnp.array([1.0, -0.0]), jnp.array(jnp.nan))
        Array([ 1., -0.], dtype=float32)
    """
    for leaf in jax.tree.leaves(after):
        if jnp.size(leaf):
            x = _after(x, leaf)
    return x


@partial(jax.jit, inline=True)
def _after(x, leaf):
    return x + _negative_zero(leaf).astype(x.real.dtype)


def _negative_zero(array: Shaped[Array, "..."]) -> Float[Array, ""]:
    entry = jax.lax.stop_gradient(array).ravel()[0]
    entry = entry.real if jnp.issubdtype(entry.dtype, jnp.inexact) else entry.astype(jnp.float32)
    # A floating product with zero is not folded by the compiler (it may be NaN), and x + (-0.0) == x also for x = -0.0.
    return jnp.where(jnp.isfinite(entry), -jnp.abs(entry * 0), -jnp.zeros_like(entry))


def eigh(
    x: Inexact[Array, "*batch n n"], *, after: PyTree[Shaped[Array, "..."]] | None = None, symmetrize: bool = True
) -> tuple[Float[Array, "*batch n"], Inexact[Array, "*batch n n"]]:
    """Eigenvalues (ascending) and eigenvectors of symmetric (Hermitian) matrices: ``x = v @ diag(w) @ v^H``.

    Args:
        x: matrices, float32, float64, complex64 or complex128.
        after: arrays that must be computed before this factorisation starts; see the module's text.
        symmetrize: use ``(x + x^H) / 2``; otherwise only the lower triangle is read (one pass less).

    Returns:
        ``(w, v)``, eigenvalues in ascending order and the eigenvectors as columns. The derivative is JAX's own and
        needs simple eigenvalues.

    Example:
        >>> import jax.numpy as jnp
        >>> eigh(jnp.diag(jnp.array([3.0, 1.0])))[0]
        Array([1., 3.], dtype=float32)
    """
    x = ordered(x, after)
    if x.shape[-1] == 1:
        return x.real[..., 0], jnp.ones_like(x)
    return _eigh(x, symmetrize)


@partial(jax.jit, static_argnums=1, inline=True)
def _eigh(x, symmetrize):
    vectors, values = jax.lax.linalg.eigh(x, symmetrize_input=symmetrize)
    return values, vectors


def svd(
    x: Inexact[Array, "*batch m n"], *, after: PyTree[Shaped[Array, "..."]] | None = None
) -> tuple[Inexact[Array, "*batch m r"], Float[Array, "*batch r"], Inexact[Array, "*batch r n"]]:
    """Thin singular value decomposition ``x = u @ diag(s) @ vt``, singular values descending.

    Args:
        x: matrices, float32, float64, complex64 or complex128.
        after: arrays that must be computed before this factorisation starts.

    Returns:
        ``(u, s, vt)`` with ``r = min(m, n)``; NaN, and so its derivative, where a matrix is not finite: LAPACK, whose
        ``gesdd`` can loop for ever on such a matrix, does not see it.
    """
    return _svd(ordered(x, after))


@partial(jax.jit, inline=True)
def _svd(x):
    mark = _one_where_finite(x)
    u, s, vt = jnp.linalg.svd(_zero_unless_finite(x), full_matrices=False)
    return u * mark, s * mark[..., 0], vt * mark


def _one_where_finite(x: Inexact[Array, "*batch m n"]) -> Float[Array, "*batch 1 1"]:
    """One for each matrix; NaN for those that hold a number which is not finite."""
    finite = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)
    return jnp.where(finite, 1, jnp.nan).astype(x.real.dtype)


@jax.custom_jvp
def _zero_unless_finite(x):
    return jnp.where(jnp.isnan(_one_where_finite(x)), 0, x)


@_zero_unless_finite.defjvp
def _zero_unless_finite_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _zero_unless_finite(x), dx * _one_where_finite(x)


def svdvals(x: Inexact[Array, "*batch m n"]) -> Float[Array, "*batch r"]:
    """Singular values in descending order."""
    return jnp.linalg.svd(x, compute_uv=False)


def qr(
    x: Inexact[Array, "*batch m n"], *, after: PyTree[Shaped[Array, "..."]] | None = None
) -> tuple[Inexact[Array, "*batch m r"], Inexact[Array, "*batch r n"]]:
    """Thin QR factorisation ``x = q @ r``.

    Args:
        x: matrices, float32, float64, complex64 or complex128.
        after: arrays that must be computed before this factorisation starts.

    Returns:
        ``(q, r)``: orthonormal columns and an upper triangle.
    """
    return jnp.linalg.qr(ordered(x, after))


def short_triangle(x: Inexact[Array, "*batch m n"]) -> Inexact[Array, "*batch r r"]:
    """Triangle ``r`` with ``r^H r = x^H x`` (tall ``x``) or ``x x^H`` (square and wide ``x``), without forming ``q``.

    Args:
        x: matrices, float32, float64, complex64 or complex128.

    Returns:
        Upper triangles of size ``min(m, n)``, with the singular values of ``x``.
    """
    tall = x if x.shape[-2] > x.shape[-1] else conjugate_transpose(x)
    return jnp.linalg.qr(tall, mode="r")
