"""Figures, words and pages: what the notebook's report, the claims' report and the benchmark's page share.

The room decides how a report looks and reads, and no number in it. It may call `common`.
"""
