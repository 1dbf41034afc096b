from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.training.bases import random_llama
from bench.training.flops import peak_tflops, product_parameters, step_flops
from bench.training.gpu import SHAPES


def test_llama_3_8b_multiplies_by_all_but_its_embeddings() -> None:
    shape = SHAPES["llama-3-8b"]

    model = random_llama(shape, torch.device("meta"), torch.bfloat16)
    every = sum(parameter.numel() for parameter in model.parameters())
    assert every == pytest.approx(8.03e9, rel=0.001)
    vectors = (2 * shape.layers + 1) * shape.hidden_size
    embeddings = shape.vocabulary * shape.hidden_size
    assert product_parameters(shape) == every - embeddings - vectors


def test_a_step_is_four_operations_a_parameter_and_token_and_its_attention() -> None:
    shape = replace(SHAPES["tiny"], layers=1)
    products = 4 * product_parameters(shape)
    # Scores and values, each length² · width / 2 products forward and twice that backward.
    attention = 6 * 64

    assert step_flops(shape, [10]) == products * 10 + attention * 100
    assert step_flops(shape, [10, 30]) == products * 40 + attention * (100 + 900)


def test_peaks_by_the_name_that_the_driver_tells() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989.4
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312.0
    assert peak_tflops("cpu") is None
