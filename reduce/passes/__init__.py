"""Statistics of one scan: each is a fold over blocks, a merge of states, and a finalization.

Lives here: one statistic a file (``moments``, ``gram``, ``rows``, ``sketch``, ``tsqr``), the intake that weighs,
cleans and shifts for all of them, and their closed protocol (``base``). In come blocks; out go states that serialize
themselves, and results. No pass knows an engine.

May import: errors, format, rows, storage.
"""
