"""Commands on saved models: features of new data, the way back, and going on.

Lives here: ``apply``. In come a model and data; out go features, rebuilt columns, or the model of a later day.

May import: daily, reduce, reduction.
"""
