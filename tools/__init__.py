"""Programs around the library: the demo, its model, evaluation."""
