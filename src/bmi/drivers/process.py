"""The program runner under its earlier name; it lives in bmi.process."""

from bmi.process import Result, run

__all__ = ["Result", "run"]
