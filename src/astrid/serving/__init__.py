"""One scoring interface over a model folder: runs with numpy, pyarrow, astropy.io.fits, fastavro and ONNX Runtime alone."""
