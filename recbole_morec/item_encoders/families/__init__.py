"""Which encoder families run: one small member of each, tried as training would use it.

``python -m recbole_morec.item_encoders.families --write docs/encoders.md`` tries all families of
the installed timm and transformers and writes the table; the tests hold the table to its word.
"""
