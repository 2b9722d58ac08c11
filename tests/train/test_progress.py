"""The line that a training run shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rsprompter_cli.train.run import StepReport, steady_eta

REPORT = StepReport(
    epoch=0, epochs=2, step=3, steps=10, losses={"loss_cls": 1.0, "loss_mask": 0.5}, rate=1e-4, gradient_norm=1.0,
    images_per_second=2.0, memory_bytes=3 << 20, eta=61.0,
)  # fmt: skip


def test_a_line_has_the_loss_the_speed_the_learning_rate_and_the_time_left() -> None:
    line = "epoch 1/2 step 3/10: loss 1.500, 2.00 images/s, learning rate 0.0001"
    assert REPORT.describe() == f"{line}, 1:01 left"
    assert replace(REPORT, eta=0.2).describe() == line
    assert REPORT.details() == "epoch 1/2, loss 1.500, 2.00 images/s, learning rate 0.0001"


def test_no_line_is_wider_than_a_terminal() -> None:
    long = replace(REPORT, epoch=299, epochs=300, step=111_000, steps=111_000, rate=1.23e-5, eta=40_000.0)
    assert long.describe() == "epoch 300/300 step 111000/111000: loss 1.500, 2.00 images/s, 11:06:40 left"


def test_no_more_time_is_left_than_until_the_limit() -> None:
    assert (REPORT.left, replace(REPORT, limit=100.0).left, replace(REPORT, limit=20.0).left) == (61.0, 61.0, 20.0)
    assert replace(REPORT, limit=20.0).describe().endswith(", time limit in 0:20")
    assert replace(REPORT, limit=100.0).describe().endswith(", 1:01 left")


def test_every_loss_is_named_without_its_prefix() -> None:
    expected = "losses: cls 1.000 mask 0.500; gradient norm 1, peak memory 3.15 MB"
    assert REPORT.describe_parts() == expected


def test_losses_of_earlier_outputs_are_one_number() -> None:
    losses = {"loss_cls": 1.0} | {f"d{index}.loss_cls": 0.25 for index in range(6)}
    parts = replace(REPORT, losses=losses, memory_bytes=None).describe_parts()
    assert parts == "losses: cls 1.000 earlier outputs 1.500; gradient norm 1"


def test_what_was_expected_steadies_the_first_estimates() -> None:
    assert steady_eta(5000.0, 100.0, done=0.01) == pytest.approx(148, abs=1)
    assert steady_eta(75.0, 100.0, done=0.25) == pytest.approx(75)
    assert steady_eta(3.0, 100.0, done=0.99) == pytest.approx(3, abs=0.1)
