"""Sample and image arrays, and the run folder; without TensorFlow."""
