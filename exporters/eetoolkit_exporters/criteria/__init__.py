"""Each exit's criterion as ONNX nodes, and in numpy as the reference."""
