"""The errors that users meet. Each message says what was expected, what came, and what to do, in one line.

The command line prints any of these as one line and exits with a code other than zero; anything else is a defect.
"""


class SearchError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(SearchError):
    """A setting is missing, misspelt or impossible."""


class DataError(SearchError):
    """A data set is absent, empty or inconsistent."""


class ModelError(SearchError):
    """A model folder or name cannot serve as a reasoning embedder."""


class CheckpointError(SearchError):
    """A checkpoint cannot be read, written or used for what was asked."""


class NumericError(SearchError):
    """Training left the range of finite numbers."""
