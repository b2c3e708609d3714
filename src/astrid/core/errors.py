"""The error tree: every error says what happened, with its numbers, and what to do next.

An `AstridError` is a mistake that its reader can mend (a file, a key, a pair, a gate): the command line prints it as one
sentence and exits with code 2. Anything else that escapes is a defect of AstrID and keeps its traceback.
"""

from __future__ import annotations


class AstridError(Exception):
    """Base of every error that AstrID raises on purpose; `exit_code` is what the command line returns for it."""

    exit_code = 2


class ConfigError(AstridError):
    """A configuration key is unknown, of the wrong type, or impossible; the sentence names the key's path."""


class InputError(AstridError):
    """A file or table given by the user is missing, broken, or lacks what is needed."""


class MissingDependencyError(AstridError):
    """An optional package, library or tool is not on this machine; the sentence names how to get it."""


class ImagingError(AstridError):
    """A pair of images cannot be calibrated, aligned or subtracted."""


class NoOverlapError(ImagingError):
    """Science and reference do not share sky."""


class TooFewStarsError(ImagingError):
    """Too few usable stars for a measurement that has no fallback."""


class DataSetError(AstridError):
    """Triplets, labels or splits cannot be used as asked (an empty class, a wrong shape, an unknown id)."""


class LeakageError(DataSetError):
    """The audit found an event, sky cell, exposure or stamp on both sides of a split."""


class GateError(AstridError):
    """A gate (ONNX agreement, promotion) refused; the sentence carries the measured number and its limit."""


class RegistryError(AstridError):
    """The tracking store or model registry cannot answer as asked."""
