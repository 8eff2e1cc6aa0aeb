"""What the project is made with, and the wheel does not hold."""
