"""How much a patch counts, to the last digit."""

import numpy as np
import pytest
import xarray as xr


@pytest.mark.parametrize("blocks", [-1, 8, 6], ids=["settled", "in part", "in numpy"])
@pytest.mark.parametrize("more", [2e-3, 1e-4, -1e-4])
def test_a_vote_with_little_more_weight_wins(more, blocks):
    """Two patches share voxels: the first votes for class 1, the second for class 0."""
    array = xr.DataArray(np.zeros(12, "float32"), dims="x")
    array[:4] = 1  # by which the model knows the first of both

    def model(batch):
        first = np.broadcast_to(batch[..., :1], batch.shape)
        return np.concatenate([1 - first, first], axis=1)

    window = np.full(8, 0.5)
    window[4:] += more
    # The last four voxels of the first patch are the first four of the second.
    result = array.spinn.predict(
        model, patch={"x": 8}, overlap=4, window=window, combine="hard", blocks=blocks
    )
    assert result.values.tolist() == [1] * 4 + [int(more > 0)] * 4 + [0] * 4


@pytest.mark.parametrize("blocks", [-1, 8, 4])
def test_the_greatest_is_chosen_among_patches_of_weight(blocks):
    """A window may be zero between voxels where it is not."""
    window = np.array([1.0, 0, 0, 1, 1, 1, 1, 1])
    array = xr.DataArray(np.zeros(12, "float32"), dims="x")
    array[:4] = 1

    def model(batch):
        """Return 5 everywhere, but 7 in the second patch, and 9 where that has no weight."""
        second = np.where(np.arange(8) % 3 > 0, 9, 7).astype("float32")
        return np.where(batch[..., :1] == 1, np.float32(5), second)

    result = array.spinn.predict(
        model, patch={"x": 8}, overlap=4, window=window, combine="max", blocks=blocks
    )
    assert result.values.tolist() == [5] * 4 + [7, 5, 5, 7] + [9, 9, 7, 9]
