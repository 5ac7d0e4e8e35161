"""What people see: tables, pages, progress, and exit codes.

Lives here: words and numbers as text (``words``), terminals (``console``, ``progress``), tables (``show``), the
report's page (``page``), errors as exit codes (``exits``), and how a process ends (``stopping``). In come records; out
go lines and HTML.

May import: reduce, reduction.
"""
