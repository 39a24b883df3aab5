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
  open_shapes   input dimensions that a model leaves open.
  endpoint      function and names -> checked graph.
  formats       what lies at a path.
  saved_models  SavedModels: tags, signature, guarded load.
  keras_models  .keras, .h5 and live Keras models.
  loading       any model -> Graph.
"""
