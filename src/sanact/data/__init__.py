"""Image-classification data sets: by Hub name, from a local folder, from objects in memory, or the bundled digits."""

from sanact.data.base import Batch, Data
from sanact.data.column import pixels
from sanact.data.images import Images, Integers
from sanact.data.loading import load_data
from sanact.data.sources import data_of

__all__ = ["Batch", "Data", "Images", "Integers", "data_of", "load_data", "pixels"]
