"""A transformer that adds: problems, the model's exact lookup form, training, and the ablation study."""
