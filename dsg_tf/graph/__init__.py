"""The frozen inference graph: the one form that every model takes.

Modules, lowest first:
  ir            Node and Graph: immutable, keyed by name.
  pattern       structural matching through edges.
  naming        layer names as the model's owner knows them.
  inlining      calls, and branches on constants, become what they run.
  switches      the same for the branches of TensorFlow 1.
  grouped_convolutions  in the form that a CPU runs.
  frozen        freezing, and graph -> tf.function.
  evaluation    values of tensors, over samples.
  safety        refuses graphs that touch files or call Python.
  memory        how much of it there is.
  sizes         what a graph takes of it.
  open_shapes   input dimensions that a model leaves open.
  endpoint      function and names -> checked graph.
  model_files   pipes and devices are refused, changes are noticed.
  formats       what lies at a path.
  keras_names   Keras's own layers, initializers, functions ...
  keras_config  a config that names anything else is refused.
  hdf5_files    containers of weights that reach out of themselves, too.
  keras_files   the same for .keras and .h5 files as a whole.
  saved_models  SavedModels: tags, signature, guarded load.
  keras_models  .keras, .h5 and live Keras models.
  loading       any model -> Graph.
"""
