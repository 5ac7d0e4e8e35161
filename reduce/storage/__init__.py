"""Where bytes lie, and what they must be: places, files that appear whole, JSON, safetensors, digests, models on disk.

Lives here: one resolver of paths (``places``, ``uris``, ``links``, ``waiting``), one list of secrets and their masker
(``secrets``), the one writer of files (``files``), canonical JSON and long lists of it (``plain``, ``long_lists``,
``sequences``), numbers (``tensors``), a file of arrays (``array_file``), directories of a model (``artifact``,
``model_record``), all digests (``digest``), and the versions that results depend on (``about``). What changes is
committed in one way: a file is created if it is absent (``exclusive``), and is the next record of a chain (``chain``).
In come paths, bytes and values; out go files that are whole or not there, and errors that name the file.

May import: errors, format.
"""
