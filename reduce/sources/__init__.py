"""Where rows come from: files, arrays, or collections of a cluster, described without being read.

Lives here: the closed protocol of a source and its three forms (``base``), the matrix that engines read (``matrix``:
a source, a cleaning policy, transforms), Parquet files (``parquet``, ``footers``, ``origins``, ``discovery``,
``filters``, ``catalog``), what decoding takes and how little of it is held (``extents``, ``pages``, ``pieces``), data
in memory (``arrays``, ``tables``), and how columns become a matrix (``layouts``, ``arrow``). In come paths and
tables; out go fragments, and blocks when an engine asks.

May import: errors, format, rows, storage.
"""
