"""What the candidates answer to held-out records, and what that says of the tuned adapter."""
