"""From a prepared graph to a file that is checked."""
