"""Files for other runtimes: OpenVINO IR, ONNX, INT8, and a folder that runs without otx."""
