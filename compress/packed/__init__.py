"""One file that holds all of a model: coded, checked, read without trust, and predicted from.

Lives here: the format (``pack``, ``pack_front``, ``pack_weights``, ``flat``), its coders (``coder``, ``huffman``),
and prediction as a transform (``predict``). In come models in whole numbers; out go bytes, and models again.

May import: core, format, reduce.
"""
