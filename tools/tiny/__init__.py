"""How the embedded model is made: its words, the pictures it learns from, training and scoring."""
