"""What inference needs: structure, weights, prediction and files of an ensemble."""
