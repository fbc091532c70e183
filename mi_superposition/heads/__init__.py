"""Attention heads: ablation of any set of them, and what they read and write."""

from mi_superposition.heads.ablation import ablate_heads, head_logits, head_outputs, keep_only, leave_out
from mi_superposition.heads.projection import Circularity, HeadProjections, circularity, project_heads

__all__ = [
    "Circularity",
    "HeadProjections",
    "ablate_heads",
    "circularity",
    "head_logits",
    "head_outputs",
    "keep_only",
    "leave_out",
    "project_heads",
]
