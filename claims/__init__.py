"""The claims laboratory: it measures what the notebook says of Batch Normalization and judges each sentence.

Its stage files read arguments, call a room and write. The rooms: `studies` (what is trained), `judging` (claims, measures, tests,
verdicts), `probes` (timing, and a look inside networks), `reporting` (figures, words, page). An upper room may call a lower one:
reporting, then judging and probes, which do not call each other, then studies, then the rooms of `pipeline`.
"""
