"""Synthesis of samples from the BN statistics of a trained model.

Modules, lowest first:
  losses          terms of the loss; pure functions.
  natural_images  initial images, and the space in which they are optimised.
  sample_space    conversion between an input's units and the variables.
  synthesizer     the keras.Model whose variables are the samples.
  callbacks       targets, views, schedules, logs and progress.
  padding_trial   selects how shifted images are filled at the border.
  run             batch after batch, with resume; the package's entry.
"""
