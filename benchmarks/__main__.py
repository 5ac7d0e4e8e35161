"""``python -m benchmarks [reduction | stages | memory | glosses | scale | latency] ...``; else reduction and stages."""

import sys

from benchmarks import glosses, latency, memory, reduction, scale, stages

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "scale": scale.main,
    "latency": latency.main,
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
