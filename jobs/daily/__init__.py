"""The day-by-day job: fit, gate, project, publish, each idempotent by day.

Lives here: its file (``config``), its stages (``stages``), its records on disk (``records``), turns of runs that are
started at once (``turns``), the measures of drift
(``drift``), and its commands (``cli``). In come a day's new files; out go features and published versions.

May import: documents, reduce, reduction.
"""
