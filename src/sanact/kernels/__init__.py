"""The computations of sanitizers, each as a function with two forms: compiled for the CPU, and plain torch for all else.

The compiled form is used for float32 on the CPU, called eagerly.  Plain torch is used for other dtypes and devices, inside
`torch.compile` and other tracing, in an exported network, and if the library is missing.
"""

from sanact.kernels.library import at_work, plain_torch
from sanact.kernels.mask import kept_from
from sanact.kernels.median import median_filter
from sanact.kernels.nl_means import nl_means

__all__ = ["at_work", "kept_from", "median_filter", "nl_means", "plain_torch"]
