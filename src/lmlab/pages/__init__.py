"""The report: figures and one self-contained page, from plain numbers and strings.

`figures` draws (it needs matplotlib), `page` puts figures, tables and sentences into HTML. This
room knows nothing of models, runs or analyses: whoever calls it says what was found.
"""
