"""The commands of compact models: ``eigenmill compress`` and ``eigenmill predict``."""

from __future__ import annotations

from typing import Annotated

import typer

from eigenmill.compress.packed.pack import read_packed
from eigenmill.compress.packed.predict import predictions
from eigenmill.jobs.recipes import page as compact_page
from eigenmill.jobs.recipes import run as compact
from eigenmill.jobs.recipes import show as compact_show
from eigenmill.jobs.recipes.recipe import load_recipe
from eigenmill.jobs.reduction.build import command_engine
from eigenmill.jobs.reduction.results import Applied
from eigenmill.jobs.shown import console, show
from eigenmill.reduce import Sink
from eigenmill.reduce.sources import apart
from eigenmill.reduce.storage import files, places

Where = Annotated[
    str, typer.Option("--engine", help="local, dask (on DASK_SCHEDULER_ADDRESS) or spark (where its settings say).")
]
Carry = Annotated[
    list[str] | None, typer.Option("--carry", help="Columns that travel along, separated by commas. May be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, also about an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


def compress(
    conf: Annotated[str, typer.Argument(metavar="CONF", help="The recipe (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set steps.0.epochs=5. May be repeated."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a compact model: train, prune, quantize, pack, evaluate, as the recipe's steps say.

    Run again, it takes what is done from the recipe's directory. Interrupted and run again, it goes on.

    Example: [cyan]eigenmill compress conf/mnist_compact.yaml --set target.max_bytes=4000[/cyan]
    """
    source = load_recipe(conf, overrides or [])
    with console.bars(quiet or json_) as bars:
        found = compact.run(source, bars)
    fs, target = places.resolve(f"{source.recipe.output.path}/page.html")
    files.write_bytes(fs, target, compact_page.page(found).encode())
    console.show(compact_show.report(found), found.as_json(), json_)


def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A packed model, such as model.emill.")],
    path: Annotated[str, typer.Argument(metavar="INPUT", help="Parquet files with the model's columns.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Output directory.")],
    carry: Carry = None,
    vector: Annotated[str | None, typer.Option("--vector", help="Another list column than the model names.")] = None,
    column: Annotated[str, typer.Option("--column", help="Name of the predicted label or value.")] = "prediction",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another output at DIR.")] = False,
    engine: Where = "local",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Threads; all CPUs by default.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Budget of the process, such as 2GiB.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Predict with a packed model: labels and probabilities, or values, as Parquet.

    The file alone is enough: it needs neither torch nor the training data. Interrupted and run again, it goes on.

    Example: [cyan]eigenmill predict model.emill data/new --out predictions --carry id[/cyan]
    """
    apart.refuse({"INPUT": path, "MODEL": model}, {"--out": out})
    options = {} if vector is None else {"vector": vector}
    packed = read_packed(model)
    data = predictions(packed.net, path, column=column, carry=console.split(carry) or [], **options)
    sink = Sink(out, layout="columns", names=list(data.feature_names), overwrite=overwrite)
    with (
        console.bars(quiet or json_) as bars,
        command_engine(engine, out, workers=workers, memory=memory, progress=bars) as where,
    ):
        found = Applied(where.write(data, sink), packed.sha256)
    console.show(show.manifest(found.manifest, out, found.model), found.as_json() if json_ else {}, json_)


__all__ = ["compress", "predict"]
