"""What a model is worth: errors, bytes and latency, measured together.

Lives here: ``evaluate`` and ``latency``. In come models and rows; out go records.

May import: core, packed, reduce.
"""
