"""Recipes for compact models: steps from a closed registry, every one kept, test rows scored once.

Lives here: the recipe's file (``recipe``), its steps and teachers (``steps``, ``teach``, ``target``), the run
(``run``), what came of it (``report``, ``show``, ``page``, ``inspect``), and the commands (``cli``). In comes a
recipe; out go a packed file and what proves it.

May import: compress, documents, reduce, reduction, shown.
"""
