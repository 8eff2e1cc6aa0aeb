"""Files: which may be opened (`reading`), and who may write which (`writing`)."""
