"""What every room needs and no result depends on: errors, whole files, the command line, addresses, parameter files.

`statistics` is the exception: its numbers stand in results, so stages that use it name it in dvc.yaml. This room calls no
other.
"""
