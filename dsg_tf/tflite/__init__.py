"""Everything that reads, writes or runs a .tflite file.

`flatbuffer` and `interpreter` look at and run files; they stand low, so that
calibration can use them. `convert`, `export` and `readback` stand above it.
"""
