"""Native: the C of a model, compiled: called from Python, and measured as a chip would hold it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eigenmill.compress.core.front import RawLike
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.core.layers import I64, Predicted, softmax
from eigenmill.compress.core.model import Model
from eigenmill.compress.exports.c import Number, score_type, source
from eigenmill.compress.packed.pack import net_of
from eigenmill.reduce.errors import ConfigError, MissingValueError, SchemaError
from eigenmill.reduce.rows.blocks import F64

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb")


@dataclass(frozen=True)
class Footprint:
    """What the C of a model takes, in bytes.

    Attributes:
        compiler, flags: what compiled it.
        flash: code and constants (.text and .rodata), ``names`` included.
        names: of it labels, names of columns and vocabularies, which a linker leaves out where nobody reads them.
        ram: variables that live all the time (.data and .bss).
        stack: of the call for the scores, its frames added up; the compiler's own arithmetic routines are not in it,
            nor are the row and the scores, which are the caller's.
    """

    compiler: str
    flags: tuple[str, ...]
    flash: int
    names: int
    ram: int
    stack: int


_CLOCK = "#define _POSIX_C_SOURCE 199309L\n#include <time.h>\n"
_ROWS = """
int64_t model_rows(const NUMBER *rows, const int32_t *codes, int64_t count, SCORE *scores, double *seconds);
int64_t model_rows(const NUMBER *rows, const int32_t *codes, int64_t count, SCORE *scores, double *seconds)
{
    int64_t i;
    (void)rows;
    (void)codes;
    for (i = 0; i < count; i++) {
        struct timespec began, ended;
        int refused;
        if (seconds)
            clock_gettime(CLOCK_MONOTONIC, &began);
        refused = model_scores(GIVEN, scores + i * OUTPUTS);
        if (seconds) {
            clock_gettime(CLOCK_MONOTONIC, &ended);
            seconds[i] = (double)(ended.tv_sec - began.tv_sec) + 1e-9 * (double)(ended.tv_nsec - began.tv_nsec);
        }
        if (refused)
            return i * FEATURES + refused;
    }
    return 0;
}
"""
"""What is compiled next to the model for use from Python: rows in a loop, timed one by one if asked."""


@dataclass(frozen=True, eq=False)
class Native:
    """A compiled model. It predicts as the integer net does."""

    net: WholeNet
    number: Number
    score: str
    rows: Callable[..., int]

    def scores(self, X: RawLike) -> I64:
        """Integer scores (n, outputs) of raw rows X (n, d), or of a table if there are categories.

        Raises:
            SchemaError: X has another shape.
            MissingValueError: a value is missing or infinite, and the model has no code for it.
        """
        return self._run(X, None)

    def seconds(self, X: RawLike) -> F64:
        """How long the scores of each row took (n,), measured in C around the call."""
        found = np.zeros(len(X))
        self._run(X, found)
        return found

    def _run(self, X: RawLike, seconds: F64 | None) -> I64:
        net, d = self.net, self.net.front.n_features
        codes: npt.NDArray[np.int32] | None = None
        if net.front.categories:
            X, named = net.front.parts(X)
            codes = np.ascontiguousarray(named, dtype=np.int32)
        rows = np.ascontiguousarray(X, dtype=np.float64 if self.number == "double" else np.float32)
        if rows.ndim != 2 or rows.shape[1] != d:
            raise SchemaError(f"expected rows of {d} numbers, found shape {rows.shape}; give those columns")
        found = np.empty((len(rows), net.layers[-1].weights.shape[1]), self.score.removesuffix("_t"))
        clock = None if seconds is None else seconds.ctypes.data
        places = None if codes is None else codes.ctypes.data
        refused = self.rows(rows.ctypes.data, places, len(rows), found.ctypes.data, clock)
        if refused:
            row, column = divmod(refused - 1, d)
            raise MissingValueError(
                f"expected finite numbers in column {net.front.names[column]!r}, found {rows[row, column]} in row "
                f"{row}; clean the data"
            )
        return found.astype(np.int64)

    def predict_proba(self, X: RawLike) -> F64:
        """Probabilities (n, classes)."""
        return softmax(np.asarray(self.scores(X) * self.net.scale + self.net.offset))

    def predict(self, X: RawLike) -> Predicted:
        """Labels (n,), or values of a regression."""
        scores = self.scores(X)
        if self.net.task == "regression":
            return scores[:, 0] * self.net.scale + self.net.offset
        return np.asarray(np.asarray(self.net.labels)[scores.argmax(axis=1)])


def compiled(
    model: Model | WholeNet | str | os.PathLike[str],
    *,
    number: Number = "double",
    compiler: str = "cc",
    flags: Sequence[str] = ("-O2",),
) -> Native:
    """The model's C as part of this process.

    Args:
        model: quantized, or the path of a packed file.
        number: type of a raw value.
        compiler: that makes code for this machine.
        flags: for it.

    Raises:
        ConfigError: there is no such compiler, or it fails.
    """
    net = net_of(model)
    with tempfile.TemporaryDirectory(prefix="eigenmill-") as folder:
        text, library = Path(folder) / "model.c", Path(folder) / "model.so"
        text.write_text(_CLOCK + source(net, number=number) + _ROWS, "ascii")
        outputs, score = net.layers[-1].weights.shape[1], score_type(net)
        d, c = net.front.n_features, len(net.front.categories)
        row = ", ".join([*(["rows+i*FEATURES"] if d else []), *([f"codes+i*{c}"] if c else [])])
        sizes = {"NUMBER": number, "SCORE": score, "FEATURES": d, "OUTPUTS": outputs, "GIVEN": row}
        given = [f"-D{name}={value}" for name, value in sizes.items()]
        run([compiler, *STRICT, *flags, *given, "-shared", "-fPIC", "-o", str(library), str(text), "-lm"])
        function = ctypes.CDLL(str(library)).model_rows
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = ctypes.c_int64
    return Native(net, number, score, function)


def footprint(
    model: Model | WholeNet | str | os.PathLike[str],
    *,
    number: Number = "float",
    compiler: str = "arm-none-eabi-gcc",
    flags: Sequence[str] = ("-Os", *CORTEX_M4),
) -> Footprint:
    """Flash, memory and stack that the model's C takes.

    Args:
        model: quantized, or the path of a packed file.
        number: type of a raw value.
        compiler: gcc, of this machine or another.
        flags: for it.

    Raises:
        ConfigError: there is no such compiler, or it fails.
    """
    plain = ("-ffunction-sections", "-fdata-sections", "-fno-pic", "-fno-asynchronous-unwind-tables", "-fstack-usage")
    with tempfile.TemporaryDirectory(prefix="eigenmill-") as folder:
        text, result = Path(folder) / "model.c", Path(folder) / "model.o"
        text.write_text(source(net_of(model), number=number), "ascii")
        run([compiler, *STRICT, *flags, *plain, "-c", "-o", str(result), str(text)])
        size = run([compiler, "-print-prog-name=size"]).strip()
        sections = [line.split() for line in run([size, "-A", str(result)]).splitlines()]
        frames = [line.split("\t") for line in result.with_suffix(".su").read_text().splitlines()]
    sizes = [(words[0], int(words[1])) for words in sections if len(words) == 3 and words[1].isdigit()]

    def total(*kinds: str) -> int:
        return sum(count for name, count in sizes if name.startswith(kinds))

    tables = (
        ".rodata.model_labels",
        ".rodata.model_columns",
        ".rodata.model_categories",
        ".rodata.model_values_",
        ".rodata.str",
        ".rodata.model_scores.str",
    )
    depth = {where.split(":")[-1]: int(count) for where, count, _ in frames}
    # These are called one after the other: the deepest of what the scores call counts.
    own = ("model_codes_of", "model_rows_of", "model_layer_")
    inner = max((count for name, count in depth.items() if name.startswith(own)), default=0)
    return Footprint(
        compiler,
        tuple(flags),
        flash=total(".text", ".rodata"),
        names=total(*tables),
        ram=total(".data", ".bss"),
        stack=depth["model_scores"] + inner,
    )


def run(command: list[str]) -> str:
    """What the command printed.

    Raises:
        ConfigError: there is no such command, or it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ConfigError(f"expected the compiler {command[0]!r}, found none; install it, or name another") from error
    except subprocess.CalledProcessError as error:
        raise ConfigError(
            f"expected {command[0]!r} to compile the model, found: {error.stderr.strip()[-2000:]}; try other flags"
        ) from error
    return done.stdout


__all__ = ["CORTEX_M4", "STRICT", "Footprint", "Native", "compiled", "footprint"]
