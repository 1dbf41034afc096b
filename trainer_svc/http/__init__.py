"""OpenAI's HTTP for the trainer: files and fine-tuning jobs, mapped on the use cases of gRPC."""
