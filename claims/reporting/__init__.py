"""The report of the claims: results read and checked, then figures and words, then the page. Its sentences are in `templates`.

It decides report.md, report.html and the figures, and no number that a verdict rests on. It may call `judging`, `studies`, the
tables and parameters of `probes`, and `pipeline.pages`.
"""
