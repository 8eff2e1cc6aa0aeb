"""What flows through a model, in numbers and pictures: used by the studio, `inspect`, `compare` and the paper."""
