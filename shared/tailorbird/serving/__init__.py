"""Generated from protos/tailorbird/serving by `make protos`."""
