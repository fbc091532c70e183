"""What was measured on a real pretrained model, as pages."""
