"""What a compact model is: its input, its layers, its whole-number form, and the rows it learns from.

Lives here: the front from a raw row to codes (``front``, ``categories``), layers and declared transforms (``layers``,
``transforms``), the net in whole numbers (``integer``), the model (``model``), rows scattered to disk (``data``) and
which are held out (``split``). In come datasets; out go models and samples.

May import: format, reduce.
"""
