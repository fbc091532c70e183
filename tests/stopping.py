"""Somebody who asks a study to stop."""

from mi_superposition.progress import Progress


class StopsAfter(Progress):
    """Asks to stop when it has been asked so many times whether to, and ever after."""

    def __init__(self, times):
        self.left = times

    def should_stop(self):
        self.left -= 1
        return self.left < 0
