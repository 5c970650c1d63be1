"""The one kind of error that is the user's to mend."""


class PipelineError(Exception):
    """Its message is one line that says what is wrong, where, and what to do."""
