"""``python -m benchmarks [NAME] ...``, a name of ``TOOLS``; without one: reduction, then stages."""

import sys

from benchmarks import compact, glosses, memory, reduction, scale, stages

TOOLS = {
    "reduction": reduction.main,
    "stages": stages.main,
    "memory": memory.main,
    "glosses": glosses.main,
    "scale": scale.main,
    "compact": compact.main,
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
