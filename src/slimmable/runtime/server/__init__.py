"""An HTTP server around a model that adapts: predictions, the width, figures, health."""
