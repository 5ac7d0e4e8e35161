"""The main job: read, clean, standardize, reduce, write; run again, it goes on.

Lives here: the job file's sections (``config``), what they build (``build``), the run (``run``), which model belongs
to which job (``fitted``), what was measured (``meter``, ``quality``), texts as sparse rows (``texts``), and records of
what was done (``report``, ``results``). In comes a job; out go features, a model and a report.

May import: documents, reduce.
"""
