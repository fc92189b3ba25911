"""Answer segmentation requests over HTTP, as SageMaker expects of a container."""
