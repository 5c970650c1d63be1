"""The claims: what each measures, the effect that it compares, the tests of that effect, and the verdict.

It decides every number and word in trials.csv, verdicts.json and effects.json. It may call `studies`; it trains, times and probes nothing.
"""
