"""How many images become result files, on one machine or on many: sources → tasks → outcomes → ledger.

Belongs here: reading sources, the pipeline of one worker, the book of finished images, Ray. Does not: what a file looks
like (`formats`), how pixels are labelled (`segmenter`), what a run as a whole does (`batch`).
"""
