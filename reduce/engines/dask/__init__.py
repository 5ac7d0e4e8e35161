"""The engine of a Dask cluster, and Dask's arrays and DataFrames as data.

Lives here: ``engine`` (one graph a scan, watched to its end) and ``collections`` (sources whose rows only that
cluster can read). The one room that imports dask and distributed. In come passes and matrices; out go results, and
lazy collections.

May import: engines, errors, format, output, passes, rows, sources, storage.
"""
