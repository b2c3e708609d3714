"""Acquisition against a pretended archive: see benchmarks/acquisition.py."""

from benchmarks.acquisition import run

__all__ = ["run"]
