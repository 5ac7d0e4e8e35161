"""``python -m benchmarks [NAME] ...``: reduction, stages, memory, glosses, scale or spark; without a name the first two."""

import sys

from benchmarks import glosses, memory, reduction, scale, spark, stages

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "scale": scale.main,
    "spark": spark.main,
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
