"""What people see: tables, pages, progress, and exit codes.

Lives here: words and numbers as text (``words``), terminals (``console``, ``progress``), tables (``show``), the
report's page (``page``), and errors as exit codes (``exits``). In come records; out go lines and HTML.

May import: reduce, reduction.
"""
