"""The line that a training run shows."""

from __future__ import annotations

from rsprompter_cli.train.progress import StepReport


def _line(losses: dict[str, float]) -> str:
    report = StepReport(
        epoch=0, epochs=2, step=3, steps=10, losses=losses, rate=1e-4, gradient_norm=1.0,
        images_per_second=2.0, memory_bytes=None, eta=61.0,
    )  # fmt: skip
    return report.describe()


def test_every_loss_is_named_without_its_prefix() -> None:
    assert _line({"loss_cls": 1.0, "loss_mask": 0.5}).startswith(
        "epoch 1/2 step 3/10: loss 1.500 (cls 1.000 mask 0.500), "
    )


def test_losses_of_earlier_outputs_are_one_number() -> None:
    losses = {"loss_cls": 1.0} | {f"d{index}.loss_cls": 0.25 for index in range(6)}
    assert "loss 2.500 (cls 1.000 earlier outputs 1.500), lr" in _line(losses)
