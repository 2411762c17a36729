"""Bare Metal Imaging: boot physical nodes from instant clones of golden images."""

__version__ = "0.1.0"
