"""From vectors to labels: grids of cosines, their winners, words."""
