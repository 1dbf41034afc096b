"""TRL's SFTTrainer: its own defaults but for what equal work demands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from bench.training.formats import FLOAT32, weights_dtype


def make_trainer(
    base: Path,
    dataset: Any,
    lora: LoraConfig,
    number_format: str,
    out: Path,
    *,
    batch: int,
    callbacks: list[Any] | None = None,
    **changes: Any,
) -> SFTTrainer:
    """Return a trainer of `batch` records a step.

    Its learning rate, steps and adapter are ours. Nothing is logged, saved or reported, and no
    activation is computed twice, which is TRL's default.
    """
    config = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=batch,
        learning_rate=1e-4,
        num_train_epochs=1,
        gradient_checkpointing=False,
        bf16=number_format != FLOAT32,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        model_init_kwargs={"dtype": weights_dtype(number_format), "local_files_only": True},
        **changes,
    )
    return SFTTrainer(
        model=str(base), args=config, train_dataset=dataset, peft_config=lora, callbacks=callbacks
    )
