"""Job files as documents: YAML with the place of every value, complaints that name a line, and no secret shown.

Lives here: ``document`` (reading and overriding), ``complaints`` (pydantic's errors in our words). In come paths and
``--set`` values; out go checked records.

May import: reduce.
"""
