"""What is asked of the model, who gets it when, and what comes back."""
