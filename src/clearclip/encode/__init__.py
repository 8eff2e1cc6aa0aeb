"""From images and words to vectors: resize, windows and features; prompts and their embeddings."""
