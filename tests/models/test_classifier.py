"""Fewer dimensions of an embedding table keep of its words what they can."""

import pytest
import torch
from torch import Tensor

from distilkit.models.classifier import principal_components


def table(rows: int = 60, width: int = 12, seed: int = 0) -> Tensor:
    """Rows around a mean of their own, which vary more along some directions than along others."""
    random = torch.Generator().manual_seed(seed)
    strengths = torch.linspace(3, 0.1, width)
    turned = torch.linalg.qr(torch.randn(width, width, generator=random)).Q
    return torch.randn(rows, width, generator=random) * strengths @ turned + 5


def gram(rows: Tensor) -> Tensor:
    """Of centred rows: what is left of a table when neither its axes nor its origin matter."""
    centred = rows.double() - rows.double().mean(dim=0)
    return centred @ centred.T


def test_all_components_keep_every_angle_and_length() -> None:
    """Coordinates along directions that are not orthonormal would distort the words' similarities."""
    rows = table()
    whole = principal_components(rows).coordinates(rows, 12)
    torch.testing.assert_close(gram(whole), gram(rows), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(whole.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [1, 5, 11])
def test_fewer_components_are_as_near_as_any_table_of_that_width(size: int) -> None:
    """Eckart and Young 1936: nothing of this rank is nearer. The least ones have this shape too."""
    rows = table()
    components = principal_components(rows)
    kept = components.coordinates(rows, size)
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(dim=0))
    missing = gram(rows).trace() - gram(kept).trace()
    assert missing.item() == pytest.approx(values[size:].square().sum().item(), rel=1e-4)
    share = values[:size].square().sum() / values.square().sum()
    assert components.shares[:size].sum().item() == pytest.approx(share.item(), rel=1e-5)


def test_components_are_uncorrelated_and_come_in_the_order_of_their_variance() -> None:
    rows = table()
    components = principal_components(rows)
    covariance = torch.cov(components.coordinates(rows, 12).double().T)
    variances = covariance.diagonal()
    assert variances.diff().lt(0).all() and components.shares.diff().lt(0).all()
    torch.testing.assert_close(components.shares.double(), variances / variances.sum(), atol=1e-6, rtol=1e-4)
    assert (covariance - variances.diag()).abs().max() < 1e-4 * variances[0]


def test_equal_tables_give_equal_components_and_the_sign_is_settled() -> None:
    """A sign that is left to the solver would make a run that cannot be made again elsewhere."""
    rows = table()
    one, other = principal_components(rows), principal_components(rows.clone())
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    largest = one.directions.gather(0, one.directions.abs().argmax(dim=0, keepdim=True))
    assert largest.gt(0).all()
    # The same cloud of points, entered in another order.
    turned = principal_components(rows.flip(0))
    torch.testing.assert_close(turned.directions, one.directions, atol=1e-5, rtol=0)


def test_a_mean_far_from_zero_is_no_component() -> None:
    """Not centred, the first dimension would say of every word the same."""
    rows = table()
    near, far = principal_components(rows), principal_components(rows + 50)
    torch.testing.assert_close(far.shares, near.shares, atol=1e-4, rtol=1e-3)


def test_a_table_with_fewer_rows_than_dimensions_has_finite_components() -> None:
    rows = table(rows=4)
    components = principal_components(rows)
    assert components.coordinates(rows, 12).isfinite().all() and components.shares.min() >= 0
    assert components.shares[:3].sum().item() == pytest.approx(1)
