"""What a server needs: models and what is kept of images, limits, who may ask, and which files may be opened."""
