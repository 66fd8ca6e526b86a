"""A run folder in, tables, figures and one self-contained HTML page out; never imports a model."""
