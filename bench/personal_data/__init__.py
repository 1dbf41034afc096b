"""How much of the personal data in our labelled sentences is found, and what is taken for it."""
