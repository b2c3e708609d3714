"""AstrID: from raw telescope images to a deployed real/bogus classifier for supernovae."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("astrid")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
