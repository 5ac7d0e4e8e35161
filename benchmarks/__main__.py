"""``python -m benchmarks [NAME] ...``, a name of ``TOOLS``; without a name: reduction, stages."""

import sys

from benchmarks import deep_compression, frontier, glosses, memory, reduction, scale, stages

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "scale": scale.main,
    "frontier": frontier.main,
    "deep_compression": deep_compression.main,
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
