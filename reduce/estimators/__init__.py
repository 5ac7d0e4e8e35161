"""Estimators in scikit-learn's way: a few passes each, and small dense algebra in between.

Lives here: ``StandardScaler``, ``PCA``, ``TruncatedSVD``, what they share (``base``, ``linear``) and take
(``inputs``), the choice of a solver, the algebra of spectra, iterations and bounds, the frozen record of a fitted
model (``fitted``), and how it is saved and read (``saving``, ``store``). In come data and parameters; out go fitted
attributes, transforms and snapshots.

May import: dataset, engines, errors, format, method, output, passes, plan, rows, sources, storage.
"""
