"""Ways to train the same network on the same batches, each in a process of its own."""
