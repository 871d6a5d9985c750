"""Training a classifier: a recipe, a seeded loop, and a card that says how the weights were made."""

from sanact.training.checkpoint import read_checkpoint, write_checkpoint
from sanact.training.loop import accuracy, augmented, train
from sanact.training.plain import plain_network
from sanact.training.recipe import Recipe
from sanact.training.trained import save_trained, train_and_save

__all__ = [
    "Recipe",
    "accuracy",
    "augmented",
    "plain_network",
    "read_checkpoint",
    "save_trained",
    "train",
    "train_and_save",
    "write_checkpoint",
]
