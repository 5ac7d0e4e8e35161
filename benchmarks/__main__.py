"""``python -m benchmarks [NAME] ...``, NAME among ``TOOLS``; without a name: reduction, stages."""

import sys

from benchmarks import glosses, memory, reduction, scale, stages, wide

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "scale": scale.main,
    "wide": wide.main,
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
