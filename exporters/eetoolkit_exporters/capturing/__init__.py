"""A trained network, as it was handed over, as one ONNX graph with named exits."""
