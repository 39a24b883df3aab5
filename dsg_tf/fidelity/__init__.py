"""How close a result is to the float model, and the verdict."""
