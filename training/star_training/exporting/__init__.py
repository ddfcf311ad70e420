"""Models as files that run without timm: one module for each format.

A module has a SUFFIX, `write(model, images, path, metadata)` and `read(path)`, which returns the model in the file as a
function of images. Every file takes batches of any size.
"""

FORMATS = {"onnx": "onnx", "torch.export": "torch_export", "torchscript": "torchscript"}  # name -> module
