"""What a run is asked for, as dataclasses. No TensorFlow."""
