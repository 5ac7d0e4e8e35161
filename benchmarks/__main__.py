"""``python -m benchmarks [NAME] ...``, a tool or options of ``reduction``; without a name: reduction, stages."""

import sys

from benchmarks import (
    before,
    compact,
    dask_ml,
    deep_compression,
    equal,
    flights,
    frontier,
    glosses,
    krylov,
    latency,
    memory,
    reduction,
    scale,
    seconds,
    single_scan,
    spark,
    spark_memory,
    stages,
    tables,
    wide,
)

TOOLS = {
    "reduction": reduction.main,
    "before": before.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "equal": equal.main,
    "krylov": krylov.main,
    "tables": tables.main,
    "single_scan": single_scan.main,
    "wide": wide.main,
    "scale": scale.main,
    "seconds": seconds.main,
    "dask": dask_ml.main,
    "spark": spark.main,
    "spark_memory": spark_memory.main,
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
