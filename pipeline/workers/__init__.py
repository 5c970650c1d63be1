"""How trials are executed: one trial in one process, the pool of processes on this machine, the events they send, the display.

Nothing here decides a result, so no stage depends on it in dvc.yaml. The room may call `training`, `images` and `common`.
"""
