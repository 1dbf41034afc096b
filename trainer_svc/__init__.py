"""The trainer: takes fine-tuning jobs, streams their progress, publishes LoRA adapters."""
