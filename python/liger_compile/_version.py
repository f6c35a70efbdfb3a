"""The version, also part of the compile cache keys (see cache_tag.py)."""

__version__ = "0.1.0"
