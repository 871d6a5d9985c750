from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sanact.density.pixel_cnn import ABOVE, BESIDE, LEFT, Logistics, PixelCNN
from tests import reference_density as naive
