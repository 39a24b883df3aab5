"""Many models, widths and seeds, from one command. No TensorFlow."""
