from .config import AdditionConfig as AdditionConfig
from .problems import answer_positions as answer_positions
from .problems import decode as decode
from .problems import encode_sums as encode_sums
from .problems import fresh_operands as fresh_operands
from .train import AdditionAccuracy as AdditionAccuracy
from .train import evaluate_addition as evaluate_addition
from .train import train_addition as train_addition
