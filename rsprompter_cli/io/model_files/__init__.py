"""Files that hold models: the checkpoint folder, the SAM folder, foreign `.pth` files, ONNX folders."""
