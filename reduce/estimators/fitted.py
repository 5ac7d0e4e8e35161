"""Snapshot: a fitted model as one plain record, for whoever stores, shows, compares or exports it.

scikit-learn's attributes stay the truth: :meth:`eigenmill.reduce.estimators.base.Estimator.snapshot` makes the record
from them, and :meth:`~eigenmill.reduce.estimators.base.Estimator.from_snapshot` makes the estimator again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eigenmill.reduce.passes.intake import Moments
from eigenmill.reduce.rows.blocks import Array
from eigenmill.reduce.rows.cleaning import Resolved


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A fitted model of d features (and k components, if it has components).

    Attributes:
        kind: name of the estimator's class.
        parameters: what its constructor takes.
        arrays: fitted arrays by attribute, such as ``components_`` (k, d) and ``mean_`` (d,); read-only views.
        values: fitted attributes that are no arrays, such as ``n_components_``; None where one is not asked for.
        names: (d,) feature names.
        cleaning: the policy per column, with what was learnt.
        quality: what was read, per column.
        layout: keywords with which ``Dataset.from_parquet(path, **layout)`` reads such input again.
        dtype: precision of the input that was fitted.
        fingerprint: numbers of ``files`` and ``rows``, and one ``digest`` of the files' contents (None for arrays).
        has_state: whether the model keeps what ``partial_fit`` goes on from.
        versions: of the libraries that made this record.
        digest: of the saved model; None for one that has not been loaded, or has been fitted since.
    """

    kind: str
    parameters: Mapping[str, Any]
    arrays: Mapping[str, Array]
    values: Mapping[str, Any]
    names: Sequence[str]
    cleaning: Resolved
    quality: Moments
    layout: Mapping[str, Any]
    dtype: np.dtype[Any]
    fingerprint: Mapping[str, Any]
    has_state: bool
    versions: Mapping[str, str]
    digest: str | None = None

    def __getitem__(self, name: str) -> Any:
        """The fitted attribute of that name, array or not. Raises KeyError."""
        return self.arrays[name] if name in self.arrays else self.values[name]


__all__ = ["Snapshot"]
