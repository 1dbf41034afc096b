"""Generated from protos/tailorbird/tuning/v1 by `make protos`."""
