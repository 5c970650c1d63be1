"""The studies of the claims: which arms, levels and seeds are declared, and the tables that their trials leave.

It decides what is trained for the claims. It may call `pipeline.trials`; only its module `trials` needs the code that trains.
"""
