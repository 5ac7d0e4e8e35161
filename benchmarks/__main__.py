"""``python -m benchmarks [NAME] ...``, a tool or options of ``reduction``; without a name: reduction, stages."""

import sys

from benchmarks import (
    compact,
    dask_ml,
    deep_compression,
    flights,
    frontier,
    glosses,
    krylov,
    latency,
    memory,
    reduction,
    scale,
    spark,
    stages,
    tables,
    wide,
)

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "krylov": krylov.main,
    "tables": tables.main,
    "wide": wide.main,
    "scale": scale.main,
    "dask": dask_ml.main,
    "spark": spark.main,
    "compact": compact.main,
    "frontier": frontier.main,
    "deep_compression": deep_compression.main,
    "latency": latency.main,
    "flights": flights.main,
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
