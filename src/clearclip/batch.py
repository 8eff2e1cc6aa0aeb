"""Many images: the public names of `clearclip.engine.run`."""

from clearclip.engine.run import find_images, segment_files, segment_on_ray

__all__ = ["find_images", "segment_files", "segment_on_ray"]
