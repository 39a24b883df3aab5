"""Samples from nothing but a trained model.

Modules, lowest first:
  losses          what a sample is pulled towards; pure functions.
  natural_images  where images start, and how they move.
  sample_space    between an input's units and the variables.
  synthesizer     the keras.Model whose variables are the samples.
  callbacks       what happens around the steps.
  padding_trial   which edges of shifted images fit the model.
  run             batch after batch, with resume; the package's entry.
"""
