"""Rows with categories of every kind, and nets that read them."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from eigenmill.compress.core.categories import Category
from eigenmill.compress.core.front import Front
from eigenmill.compress.core.integer import WholeLayer, WholeNet, check
from eigenmill.reduce import Dataset
from tests.compress.nets import layer, net

HOSTILE = 'a"b\\n??/*'
CATEGORIES = (
    Category("city", "text", ("", "ABE", "ABQ", HOSTILE, "höhe", "日本"), True),
    Category("month(when)", "whole", (1, 2, 3, 12), False),
    Category("port", "whole", (-(1 << 63), -5, 0, 443, (1 << 63) - 1), True),
    Category("sunny", "boolean", (True,), False),
    Category("home", "text", ("", "ABE", "ABQ", HOSTILE, "höhe", "日本"), False),
    Category("empty", "text", (), True),
)


def mixed(numbers: int = 3, bits: int = 12, categories: tuple[Category, ...] = CATEGORIES) -> Front:
    """A front of some numbers, one of which may be missing, and categories."""
    low, step = np.linspace(-3, 2, numbers, dtype=np.float32), np.full(numbers, 0.01, np.float32)
    fill = np.array([7, *([-1] * (numbers - 1))][:numbers], np.int64)
    names = [f"n{j}" for j in range(numbers)]
    return Front({"columns": names}, numbers, bits, low, step, fill, 0.0, 1.0, categories, 37 if numbers else 1)


def whole(front: Front, hidden: int = 9, *, most: int = 90, zero: float = 0.3, last_bits: int = 0) -> WholeNet:
    """A net of two layers for such a front."""
    first = layer(front.width, hidden, most, zero=zero)
    plain = replace(front, n_features=front.width, categories=(), low=np.zeros(1), step=np.ones(1), fill=np.zeros(1))
    made = net(plain, first, layer(hidden, 3, 50, bits=last_bits), labels=("no", "yes", HOSTILE))
    found = replace(made, front=front)
    check(found)
    return found


NETS: dict[str, WholeNet] = {
    "both": whole(mixed()),
    "thin": whole(mixed(40), 12, zero=0.95),
    "names only": whole(mixed(0, 1)),
    "wide": whole(mixed(3, 16), most=32767),
    "one text": whole(mixed(0, 1, (Category("c", "text", ("x",), False),))),
    "linear": WholeNet(
        "regression",
        (),
        mixed(2),
        (WholeLayer(np.arange(mixed(2).width)[:, None] - 9, np.array([5]), False, 0, 0, 0),),
        0.5,
        1.0,
    ),
}


def table(front: Front, count: int = 200, seed: int = 0) -> pa.Table:
    """Rows with known and unknown values and nulls; numbers within their range and beyond, none missing."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {name: rng.normal(0, 20, count) for name in front.names}
    for category in front.categories:
        strange = {"text": ["ABEX", "z", "AB", "ABQ "], "whole": [7, -1, 1 << 40], "boolean": [False]}[category.kind]
        values = [*category.values, *strange, None]
        drawn = [values[i] for i in rng.integers(0, len(values), count)]
        if category.name == category.column:
            kind = {"text": pa.string(), "whole": pa.int64(), "boolean": pa.bool_()}[category.kind]
            columns[category.name] = pa.array(drawn, kind)
        else:
            dates = [None if m is None else datetime.datetime(2001, int(rng.integers(1, 13)), 3) for m in drawn]
            columns[category.column] = pa.array(dates, pa.timestamp("us"))
    return pa.table(columns)


def late(count: int = 3000, seed: int = 0) -> pa.Table:
    """Rows whose label ``late`` hangs on a number, a city, a weekday and an hour; some cities and numbers are null."""
    rng = np.random.default_rng(seed)
    cities = np.array(["ABE", "ABQ", "JFK", "LAX", "ÖSD", None], object)
    effect = np.array([-2.0, 1.0, 0.0, 3.0, -3.0, 1.5])
    city, number = rng.choice(6, count, p=[0.2, 0.2, 0.2, 0.2, 0.1, 0.1]), rng.normal(5, 2, count)
    hours = rng.integers(0, 24 * 364, count)
    weekday, hour = (hours // 24) % 7, hours % 24  # 2001 began on a Monday
    score = effect[city] + (weekday - 3) * 0.6 + (hour > 12) * 2 - 1 + (number - 5) * 0.5
    when = np.datetime64("2001-01-01", "us") + hours * np.timedelta64(1, "h")
    return pa.table(
        {
            "distance": pa.array(np.where(rng.random(count) < 0.05, np.nan, number), from_pandas=True),
            "city": pa.array(cities[city].tolist(), pa.string()),
            "when": pa.array(when),
            "late": rng.random(count) < 1 / (1 + np.exp(-score)),
        }
    )


NAMES = ["city", "weekday(when)", "hour(when)"]


def data_of(rows: pa.Table, **options: Any) -> Dataset:
    """Such rows as a data set."""
    given: dict[str, Any] = {"columns": ["distance"], "carry": ["city", "when", "late"], "missing": "mean"} | options
    return Dataset.from_arrow(rows, **given)


def months(seed: int, *, new: bool = False) -> pa.Table:
    """3,000 rows of four months, of which each tells the label; ``side`` tells it but for one row in ten."""
    rng = np.random.default_rng(seed)
    label = rng.random(3000) < 0.5
    month = np.where(label, 1, 3) + rng.integers(0, 2, 3000)
    side = np.where(label ^ (rng.random(3000) < 0.1), "a", "b")
    date = [datetime.datetime(2001, 7 if new else m, 1) for m in month.tolist()]
    return pa.table({"date": date, "side": side, "label": label})
