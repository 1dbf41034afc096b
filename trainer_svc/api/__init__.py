"""The gRPC edge: messages to domain and back."""
