"""What a graph tells: BatchNorm layers, linear layers, channels, domains."""
