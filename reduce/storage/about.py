"""The version of eigenmill, and of everything else that the bytes of a result may depend on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import scipy
import scipy.linalg  # brings a BLAS of its own, which is then the same in every process
from threadpoolctl import threadpool_info

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of eigenmill, numpy, scipy and pyarrow, and the BLAS builds with the CPU kernel they run."""
    blas = {
        f"{info.get('internal_api')} {info.get('version')} {info.get('architecture')}"
        for info in threadpool_info()
        if info["user_api"] == "blas"
    }
    return {
        "eigenmill": __version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pyarrow": pa.__version__,
        "blas": "; ".join(sorted(blas)),
    }
