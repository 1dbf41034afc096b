"""Generated from protos/tailorbird/adapters/v1 by `make protos`."""
