"""A plan that is one ONNX file: what describes it to other languages, and whether it answers here as it should."""
