"""The socket of composition classifiers."""

from comfy_api.latest import io

CLASSIFIER = io.Custom("COMPOSITION_CLASSIFIER")
