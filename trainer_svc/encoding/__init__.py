"""A base's chat template and tokenizer without transformers: `jinja2` and `tokenizers` alone."""
