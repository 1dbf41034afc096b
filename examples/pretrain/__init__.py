"""Pre-training of the demo base from the standard library's text and generated chats."""
