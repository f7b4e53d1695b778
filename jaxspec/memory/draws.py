"""Random vectors of the models, each from a key of its own, so that any of them can be drawn again."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def row_keys(key: Key[Array, ""], mu: Int[Array, ""]) -> Key[Array, "3"]:
    """Keys of row mu: of its key, of its value, and of its competitors.

    Args:
        key: of the sample.
        mu: the row.

    Returns:
        The three keys.
    """
    return jax.random.split(jax.random.fold_in(key, mu), 3)


def vector(key: Key[Array, ""], d: int, embedding: str) -> Float[Array, " d"]:
    """One random vector.

    Args:
        key: random key.
        d: dimension.
        embedding: ``"gaussian"``, ``N(0, I / d)``, or ``"sphere"``, uniform of norm 1.

    Returns:
        The vector.
    """
    v = jax.random.normal(key, (d,))
    return v / jnp.sqrt(d).astype(v.dtype) if embedding == "gaussian" else v / jnp.linalg.norm(v)


class Regenerated(eqx.Module):
    """Competitors of the decoupled model that are drawn again where they are needed, in place of ``p^2 d`` numbers.

    Programs compiled apart may differ in the last bit of what they draw.

    Attributes:
        key: that of `sample_associations`.
        embedding: ``"gaussian"`` or ``"sphere"`` (static).
    """

    key: Key[Array, ""]
    embedding: str = eqx.field(static=True)

    def some(self, mu: Int[Array, ""], nu: Int[Array, " k"], d: int) -> Float[Array, "k d"]:
        """Some competitors of row mu.

        Args:
            mu: the row.
            nu: which.
            d: dimension.

        Returns:
            The competitors.
        """
        key = row_keys(self.key, mu)[2]
        return jax.vmap(lambda nu: vector(jax.random.fold_in(key, nu), d, self.embedding))(nu)
