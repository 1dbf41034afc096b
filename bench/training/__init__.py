"""Training beside what a user would pick instead: PEFT steps, and TRL's SFTTrainer."""
