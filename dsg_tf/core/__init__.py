"""What all else stands on: errors, files, progress, signals. No TensorFlow."""
