"""Training: gradient descent over a model's layers, with what pulls weights towards few bytes.

Lives here: ``train``, how it goes about it (``settings``), layers as torch trains them (``trained``), penalties and
steps (``constraints``), copies of rows (``augment``). In come a model and samples; out goes a trained model.

May import: core, format, reduce.
"""
