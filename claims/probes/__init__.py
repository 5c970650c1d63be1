"""Timing of training steps, and probes of what happens inside networks while they train.

It decides timing.csv and the tables under mechanisms. It may call the rooms of `pipeline` that train, and knows no study and no claim.
"""
