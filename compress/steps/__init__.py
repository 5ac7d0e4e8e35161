"""Steps that make a trained model smaller: fewer weights, fewer bits, fewer layers.

Lives here: ``prune``, ``quantize``, ``factorize``; each is ``step(model, ...) -> model``. In come models and samples;
out go models.

May import: core, format, reduce, training.
"""
