"""The Q-Sched images that a session has seen, so that going back to one costs nothing; the oldest
give way.
"""

from collections import OrderedDict

from qsched.comparison.result import Column
from qsched.sampling.coefficients import Coefficients


class History:
    """Columns by their coefficients, of one prompt, seed and model. nbytes: of their images."""

    def __init__(self) -> None:
        self._columns: OrderedDict[Coefficients, Column] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._columns)

    def get(self, coefficients: Coefficients) -> Column | None:
        """The column at these coefficients, None if it is not there."""
        if coefficients in self._columns:
            self._columns.move_to_end(coefficients)
        return self._columns.get(coefficients)

    def add(self, coefficients: Coefficients, column: Column, limit: int) -> None:
        """Keep a column; those that were asked for longest ago go until at most `limit` bytes are left."""
        if coefficients not in self._columns:
            self._columns[coefficients] = column
            self.nbytes += column.nbytes
        while self.nbytes > limit and self._columns:
            _, old = self._columns.popitem(last=False)
            self.nbytes -= old.nbytes
