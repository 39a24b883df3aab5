"""Arrays of samples and images, and the folder of a run. No TensorFlow."""
