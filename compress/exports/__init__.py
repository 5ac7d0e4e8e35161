"""Models for elsewhere: C without allocation and ONNX graphs, with the scores of the packed file.

Lives here: C (``c``, ``c_layers``, ``c_names``), what it takes when compiled here (``native``), and ONNX (``onnx``).
In come models in whole numbers; out go sources, graphs and footprints.

May import: core, format, packed, reduce.
"""
