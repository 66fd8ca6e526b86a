"""Makes tables, figures and one self-contained HTML page from a run folder; never imports a model."""
