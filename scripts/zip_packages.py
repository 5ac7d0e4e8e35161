"""Packages as one zip for ``spark-submit --py-files``: zip_packages.py TARGET PACKAGE...

The same sources give the same bytes: sorted, stored without compression, with no time stamps. A package stands at the
top of the zip, wherever it lies here, and folders that are links are followed.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path


def write(target: Path, packages: list[str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        for package in map(Path, packages):
            walk = os.walk(package, followlinks=True)
            for path in sorted(Path(folder, name) for folder, _, names in walk for name in names):
                if path.suffix == ".py" or path.name == "py.typed":
                    entry = zipfile.ZipInfo(path.relative_to(package.parent).as_posix(), (1980, 1, 1, 0, 0, 0))
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, path.read_bytes())
    os.replace(draft, target)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:])
