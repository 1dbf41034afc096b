"""What Tailorbird's two services and their callers share. Imports no torch and no vllm."""

__version__ = "0.1.0"
