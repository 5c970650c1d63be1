"""The same pool on a Ray cluster, an extra: results are those of the local pool.

Nothing here decides a result. The room may call `workers` and whatever `workers` may call.
"""
