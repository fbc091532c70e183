from .learner import FusedGradient as FusedGradient
from .learner import FusedLearner as FusedLearner
