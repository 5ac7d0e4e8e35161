"""``python -m benchmarks [reduction | stages | memory] ...``; without a name: reduction, then stages."""

import sys

from benchmarks import memory, reduction, stages

TOOLS = {"reduction": reduction.main, "stages": stages.main, "memory": memory.main}

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or [""]
    if name in TOOLS:
        TOOLS[name](rest)
    elif name:
        reduction.main([name, *rest])
    else:
        reduction.main([])
        stages.main([])
