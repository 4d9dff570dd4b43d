"""A plan written back as one ONNX file."""
