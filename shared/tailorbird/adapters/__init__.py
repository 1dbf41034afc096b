"""Generated from protos/tailorbird/adapters by `make protos`."""
