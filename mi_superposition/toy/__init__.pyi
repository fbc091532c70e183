from .config import ToyConfig as ToyConfig
from .config import ToySetting as ToySetting
from .config import ToyStudyConfig as ToyStudyConfig
from .models import ToyModels as ToyModels
from .models import bundled_study as bundled_study
from .models import load_toy as load_toy
from .train import train_toy as train_toy
