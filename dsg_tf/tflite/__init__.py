"""Everything that reads, writes or runs a .tflite file.

`flatbuffer` parses files and `interpreter` runs them; neither depends on
calibration, which uses both. `convert`, `export` and `readback` may depend on
calibration.
"""
