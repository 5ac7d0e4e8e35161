"""The engine of this process: threads over leaves, and blocks kept between the scans of an iteration.

Lives here: ``engine`` (configuration and session) and ``kept`` (decoded blocks in memory and on local disk). In come
passes and matrices; out go results, manifests and rows.

May import: engines, errors, output, passes, rows, sources, storage.
"""
