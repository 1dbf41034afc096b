"""Generated from protos/tailorbird/tuning by `make protos`."""
