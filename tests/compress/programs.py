"""Exported C as programs: how they are compiled and run, here under sanitizers and on an emulated Cortex-M4."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.exports.c import Number, source
from eigenmill.compress.exports.native import CORTEX_M4, STRICT

HERE = Path(__file__).parent
cortex = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None or shutil.which("qemu-system-arm") is None,
    reason="no compiler or emulator of Cortex-M: make cortex",
)
SANITIZED = ["cc", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CHIP = ["arm-none-eabi-gcc", "-Os", *CORTEX_M4, "--specs=rdimon.specs", "-T", str(HERE / "cortex/chip.ld")]
CHIP += [str(HERE / "cortex/vectors.c")]
HOST_RUN = ["./model"]
CHIP_RUN = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting-config", "enable=on,target=native"]
CHIP_RUN += ["-kernel", "model"]


def build(
    net: WholeNet, number: Number, driver: str, sizes: Mapping[str, object], folder: Path, compiler: list[str]
) -> None:
    """The driver with this net as the program ``model`` in a folder."""
    (folder / "model.c").write_text(source(net, number=number), "ascii")
    given = [f"-D{name}={value}" for name, value in sizes.items()]
    command = [*compiler, *STRICT, *given, f"-I{folder}", str(HERE / driver), "-o", "model", "-lm"]
    subprocess.run(command, cwd=folder, check=True)


def run(command: list[str], folder: Path) -> None:
    """Runs the program, which must succeed and say nothing."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
