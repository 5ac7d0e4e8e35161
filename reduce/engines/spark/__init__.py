"""The engine of a Spark cluster, and Spark's DataFrames as data.

Lives here: ``engine``, what its Python workers run (``rows``), DataFrames as sources (``frames``), sessions for the
command line (``session``), and the watch over a job (``watch``). Beside ``spark_ml`` the one room that imports
pyspark. In come passes and matrices; out go results, and DataFrames.

May import: engines, errors, format, output, passes, rows, sources, storage.
"""
