"""Generated from protos/tailorbird/serving/v1 by `make protos`."""
