"""Where rows go: Parquet parts that appear whole, their records, manifest and versions.

Lives here: what a user asks for and how far it came (``sink``, ``directory``), what that takes in memory (``needs``),
the cut into parts (``parts``), encoding (``encode``, ``partition``), and what says that an output is complete
(``manifest``, ``versions``). In come blocks in order; out go files that any reader of Parquet counts alike.

May import: errors, format, rows, sources, storage.
"""
