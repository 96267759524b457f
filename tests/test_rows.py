import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchscope.rows import distinct


@given(st.lists(st.integers(-3, 3).map(float), max_size=20))
def test_distinct_values_are_each_named_once_in_order(values):
    assert distinct(np.array(values)) == sorted(set(values))
