"""Images of any size, block by block."""

from clearclip.large.label import LargeResult, segment_large

__all__ = ["LargeResult", "segment_large"]
