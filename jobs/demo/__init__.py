"""The demonstration: real digits, the main job on the local engine, and a report.

Lives here: the data (``digits``) and the story (``demo``). In comes nothing; out goes a directory to look at.

May import: reduce, reduction, shown.
"""
