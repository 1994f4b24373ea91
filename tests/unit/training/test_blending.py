"""Weights between two models."""

import pytest
import torch

from selfeval_backend.errors import ConfigurationError
from selfeval_backend.training.blending import blend


@pytest.mark.parametrize(("share", "expected"), [(0.0, 2.0), (0.25, 3.0), (1.0, 6.0)])
def test_weights_lie_where_the_share_says(share: float, expected: float) -> None:
    model, before = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(6.0)
        for parameter in before.parameters():
            parameter.fill_(2.0)
    blend(model, before.state_dict(), share=share)
    assert all(torch.equal(p, torch.full_like(p, expected)) for p in model.parameters())
    assert all((p == 2.0).all() for p in before.parameters())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ConfigurationError, match="share"):
        blend(model, model.state_dict(), share=share)
