"""Videos: every frame labelled, and drawn over."""

from clearclip.video.label import VideoResult, segment_video

__all__ = ["VideoResult", "segment_video"]
