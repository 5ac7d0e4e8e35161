"""What estimators take: arrays and data frames, which give arrays, and lazy data, which give lazy data."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, overload

from eigenmill.reduce.dataset import Dataset
from eigenmill.reduce.engines import connect
from eigenmill.reduce.engines.base import Engine
from eigenmill.reduce.engines.collections import ROOMS, Collection, package_of
from eigenmill.reduce.engines.kinds import Cluster


def is_lazy(X: object) -> bool:
    """Whether ``X`` is data to be read by an engine, as against an array or data frame."""
    if isinstance(X, list | tuple):
        return bool(X) and all(isinstance(path, str | os.PathLike) for path in X)
    return isinstance(X, Dataset | str | os.PathLike) or package_of(X) in ("pyarrow", *ROOMS)


@overload
def engine_for(data: Dataset, engine: Engine | None) -> Engine: ...
@overload
def engine_for(data: Dataset, engine: Engine | Cluster | None) -> Engine | Cluster: ...
def engine_for(data: Dataset, engine: Engine | Cluster | None) -> Engine | Cluster:
    """The engine asked for, else the one that a collection belongs to, else this process."""
    if engine is not None:
        return engine
    source = data.source
    return connect(source.home, source.connection()) if isinstance(source, Collection) else connect("local")


def kept_state(X: object, keep_state: bool | None) -> bool | None:
    """Whether a state is to be kept: of lazy data when that is asked for, of arrays when it is small (None), too."""
    return False if keep_state is None and is_lazy(X) else keep_state


def lazy_data_passes_by(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``set_output`` wrap arrays only: a lazy Dataset has no container to be put into."""
    plain = getattr(method, "__wrapped__", method)

    @functools.wraps(plain)
    def call(self: object, X: object, *args: object, **kwargs: object) -> Any:
        return (plain if is_lazy(X) else method)(self, X, *args, **kwargs)

    return call
