"""A block of rows, and what happens to it alone: decoded numbers, cleaning, and the transforms of fitted models.

Lives here: ``blocks`` (h rows of d numbers, dense or CSR, with weights and carried columns, in buffers that a thread
reuses), ``cleaning`` (policies for what is missing or far out), ``transforms`` (row-local maps: scale, project,
rebuild). In comes a block, out goes a block; nothing here knows where rows come from.

May import: errors, format, storage.
"""
