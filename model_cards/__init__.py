"""The template of model cards; beside it in the repository lie cards, with pictures, of ensembles made here."""
