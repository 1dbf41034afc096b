"""The gRPC edge: server, callers, interceptors, and the one map from errors to status codes."""
