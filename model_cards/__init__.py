"""The template of model cards; beside it, in the repository, the cards and pictures of ensembles that were made here."""
