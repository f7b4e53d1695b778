r"""Responses of single sites by back substitution: no tangents are stored, sites in chunks.

A site obeys ``h = chi + M g``, ``z = xi + N phi``, ``g = phi'(h) z`` over all rows so far, M strictly lower triangular
in time. A small change of h obeys

    ``dh = dchi + M dg``,  ``dg = (bend + slope N slope) dh``,  ``slope = phi'(h)``,  ``bend = phi''(h) z``  (diagonal),

and a response is a row of the inverse of this triangular system: for a functional that sees ``x0 . dh + u0 . dg`` at
the last time, from the last time back,

    ``u_j = u0_j + (M^T x)_j``,   ``v = slope u``,   ``x_j = x0_j + bend_j u_j + slope_j (N^T v)_j``.

Then x is its derivative in additions to h, and v that in additions to z. One row costs as much as one row of forward
tangents, and nothing of it is needed for the next.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_HIGHEST = jax.lax.Precision.HIGHEST


class SiteSlopes(NamedTuple):
    """Linearised sites of one layer, R = T P rows of which later ones are zero.

    Attributes:
        slope: ``phi'(h)``, (R, S).
        bend: ``phi''(h) z``, (R, S).
        into_h: ``M``, (R, R).
        into_z: ``N``, (R, R).
    """

    slope: Float[Array, "R S"]
    bend: Float[Array, "R S"]
    into_h: Float[Array, "R R"]
    into_z: Float[Array, "R R"]


def input_response(
    sites: SiteSlopes, start: Int[Array, ""], points: int, chunk: int, over: str | None
) -> Float[Array, "P R"]:
    """``E[d phi / d z]`` of the rows from ``start`` on: derivatives in additions to z at earlier times.

    Args:
        sites: of one layer, swept up to before its backward pass at this time.
        start: first row of this time.
        points: rows of one time, P.
        chunk: sites at once, which bounds the memory: ``2 R P chunk`` numbers.
        over: mesh axis over which sites are divided.

    Returns:
        Mean over all sites; 0 from ``start`` on.
    """
    return _mean(sites, start, points, chunk, over, on_g=False)


def output_response(
    sites: SiteSlopes, start: Int[Array, ""], points: int, chunk: int, over: str | None
) -> Float[Array, "P R"]:
    """``E[d g / d h]`` of the rows from ``start`` on: derivatives in additions to h up to this time.

    Args:
        sites: of one layer, swept up to and including this time.
        start: as in `input_response`, and so points, chunk and over.
        points: rows of one time.
        chunk: sites at once.
        over: mesh axis.

    Returns:
        Mean over all sites; 0 at later times.
    """
    return _mean(sites, start, points, chunk, over, on_g=True)


def _mean(sites, start, points, chunk, over, *, on_g):
    rows, count = sites.slope.shape
    chunk = min(chunk, count)
    parts = -(-count // chunk)

    def split(a):  # sites that fill up the last chunk have slope 0, which makes every response 0
        return jnp.moveaxis(jnp.pad(a, ((0, 0), (0, parts * chunk - count))).reshape(rows, parts, chunk), 1, 0)

    def total(part):
        own = sites._replace(slope=part[0], bend=part[1])
        return jnp.sum(_row(own, start, points, on_g=on_g), axis=2).T

    own = jnp.sum(jax.lax.map(total, (split(sites.slope), split(sites.bend))), axis=0) / count
    return own if over is None else jax.lax.pmean(own, over)


def _row(sites, start, points, *, on_g):
    """Of g at this time (``on_g``) the x, of phi the v: (R, P, S), rows, functionals, sites."""

    def block(a, row):
        return jax.lax.dynamic_slice_in_dim(a, row, points)

    def through(mixing, row, values):
        columns = jax.lax.dynamic_slice_in_dim(mixing, row, points, axis=1)
        return jnp.tensordot(columns, values, ((0,), (0,)), precision=_HIGHEST)

    def put(a, rows, row):
        return jax.lax.dynamic_update_slice_in_dim(a, rows, row, 0)

    own = jnp.eye(points, dtype=sites.slope.dtype)[:, :, None] * block(sites.slope, start)[:, None]
    x = v = jnp.zeros((len(sites.slope), points, sites.slope.shape[1]), own.dtype)
    if on_g:
        v = put(v, own, start)
        bend = jnp.eye(points, dtype=own.dtype)[:, :, None] * block(sites.bend, start)[:, None]
        x = put(x, bend + block(sites.slope, start)[:, None] * through(sites.into_z, start, v), start)
    else:
        x = put(x, own, start)

    def back(index, state):
        x, v = state
        row = start - (index + 1) * points
        slope, bend = block(sites.slope, row)[:, None], block(sites.bend, row)[:, None]
        u = through(sites.into_h, row, x)
        v = put(v, slope * u, row)
        return put(x, bend * u + slope * through(sites.into_z, row, v), row), v

    x, v = jax.lax.fori_loop(0, start // points, back, (x, v))
    return x if on_g else v
