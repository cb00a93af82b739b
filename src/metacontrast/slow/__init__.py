"""What is meta-learned."""

from ._attraction import attraction as attraction
from ._attraction import synapse_contrast as synapse_contrast
