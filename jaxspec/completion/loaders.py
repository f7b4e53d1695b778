"""Tables with labelled rows from files, read by pandas: ratings, species counts, neural recordings."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from jaxspec.optional import require


class LabelledTable(NamedTuple):
    """A table with gaps whose rows carry labels; ``fit_table(values.join(labels), values.columns, labels.columns)``.

    Attributes:
        values: DataFrame, one row per unit, NaN where missing.
        labels: DataFrame of the labels of the same rows.
    """

    values: Any
    labels: Any


def load_ratings(
    ratings: str | PathLike[str],
    users: str | PathLike[str],
    *,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
    attributes: Sequence[str] | None = None,
    separator: str = ",",
) -> LabelledTable:
    r"""Users x items from a long file of ratings and a file of user attributes; repeated ratings are averaged.

    Args:
        ratings: path; columns ``user``, ``item``, ``rating``.
        users: path; column ``user`` and the attributes.
        user: name of the column of users, in both files.
        item: name of the column of items.
        rating: name of the column of ratings.
        attributes: columns of ``users`` to keep; None: all.
        separator: of both files.

    Returns:
        One row per user with a rating, in sorted order; an unknown user has missing labels.

    Raises:
        ImportError: without pandas.
        ValueError: for a missing column, or a user that ``users`` holds twice.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ratings, users = Path(folder, "ratings.csv"), Path(folder, "users.csv")
        ...     _ = ratings.write_text("user,item,rating\n1,a,4\n2,b,3\n")
        ...     _ = users.write_text("user,age\n1,young\n2,old\n")
        ...     table = load_ratings(ratings, users)
        >>> table.values.shape, list(table.labels["age"])
        ((2, 2), ['young', 'old'])
    """
    pd = require("pandas", "load_ratings", "tables")
    table = _read(pd, ratings, separator, [user, item, rating])
    labels = _read(pd, users, separator, [user, *(attributes or [])])
    if labels[user].duplicated().any():
        twice = labels[user][labels[user].duplicated()].iloc[0]
        raise ValueError(f"{users} has the {user} {twice!r} twice; expected every one once")
    values = table.pivot_table(index=user, columns=item, values=rating, aggfunc="mean")
    labels = labels.set_index(user)
    kept = labels if attributes is None else labels[list(attributes)]
    return LabelledTable(values, kept.reindex(values.index))


def load_sites(
    path: str | PathLike[str], *, labels: Sequence[str], site: str | None = None, separator: str = ","
) -> LabelledTable:
    r"""Sites x species from a wide file: one row per site, columns of labels (habitat, year), one column per species.

    Args:
        path: of the file.
        labels: columns of labels.
        site: column that names the sites; None: the rows are numbered.
        separator: of the file.

    Returns:
        Every numeric column that is neither a label nor the site is a species; an empty cell is missing (a 0 is a 0).

    Raises:
        ImportError: without pandas.
        ValueError: for a missing column, or a species column that is not numeric.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "sites.csv")
        ...     _ = path.write_text("site,habitat,oak,ash\ns1,wood,3,\ns2,field,0,1\n")
        ...     table = load_sites(path, labels=["habitat"], site="site")
        >>> list(table.values["oak"]), list(table.labels["habitat"])
        ([3.0, 0.0], ['wood', 'field'])
    """
    pd = require("pandas", "load_sites", "tables")
    table = _read(pd, path, separator, [*labels, *([] if site is None else [site])])
    if site is not None:
        table = table.set_index(site)
    values = table.drop(columns=list(labels))
    wrong = [name for name in values if values[name].dtype.kind not in "biuf"]
    if wrong:
        raise ValueError(f"{path} has no numbers in column {wrong[0]!r}; expected numbers, or the name among labels")
    return LabelledTable(values.astype(float), table[list(labels)])


def load_neurons(
    activity: str | PathLike[str],
    neurons: str | PathLike[str],
    *,
    labels: Sequence[str] = ("region",),
    separator: str = ",",
) -> LabelledTable:
    r"""Neurons x trials from a matrix of activity and a file of labels (region, session) with the same rows.

    Args:
        activity: path of a ``.npy`` array (neurons, trials), or of a text file of numbers without a header.
        neurons: path of a file with a header and one row per neuron, in the same order.
        labels: columns of ``neurons`` to keep.
        separator: of the text files.

    Returns:
        One row per neuron; NaN (or an empty cell) is missing.

    Raises:
        ImportError: without pandas.
        ValueError: for a missing column, a different number of rows, or an array that is not a matrix.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     activity, neurons = Path(folder, "activity.npy"), Path(folder, "neurons.csv")
        ...     np.save(activity, np.ones((2, 3)))
        ...     _ = neurons.write_text("region\nV1\nCA1\n")
        ...     table = load_neurons(activity, neurons)
        >>> table.values.shape, list(table.labels["region"])
        ((2, 3), ['V1', 'CA1'])
    """
    pd = require("pandas", "load_neurons", "tables")
    if str(activity).endswith(".npy"):
        array = np.load(activity, allow_pickle=False)
        if array.ndim != 2:
            raise ValueError(f"{activity} has shape {array.shape}; expected a matrix")
        values = pd.DataFrame(array.astype(float))
    else:
        values = pd.read_csv(activity, sep=separator, header=None).astype(float)
    table = _read(pd, neurons, separator, list(labels))
    if len(table) != len(values):
        raise ValueError(f"{neurons} has {len(table)} rows; expected {len(values)}, one per neuron")
    return LabelledTable(values, table[list(labels)])


def _read(pd: Any, path: str | PathLike[str], separator: str, needed: list[str]) -> Any:
    table = pd.read_csv(path, sep=separator)
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise ValueError(f"{path} has the columns {list(table.columns)}; expected {missing[0]!r} among them")
    return table
