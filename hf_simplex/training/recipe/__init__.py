"""What the recipes share: their arguments, and the steps that several of them take."""
