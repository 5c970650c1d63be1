"""The data set: where it comes from, its files, its arrays, how it is split, and its profile.

This is the only room that knows CIFAR-10 by name. `arrays` is what later stages read. The room may call `common` alone.
"""
