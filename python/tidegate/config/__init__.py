"""What people write: the model, reading it, and turning it into what the engine takes."""
