"""Nets trained elsewhere, as models: torch, scikit-learn, safetensors and ONNX, without unpickling.

Lives here: ``nets`` and the reader of graphs (``onnx``). In come nets and files; out go models.

May import: core, reduce.
"""
