"""``python -m benchmarks [reduction | stages | memory | glosses | scale | dask] ...``.

Without a name: reduction, then stages.
"""

import sys

from benchmarks import dask_ml, glosses, memory, reduction, scale, stages

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "scale": scale.main,
    "dask": dask_ml.main,
}

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in TOOLS:
        TOOLS[name](rest)
    elif name:
        reduction.main([name, *rest])
    else:
        reduction.main([])
        stages.main([])
