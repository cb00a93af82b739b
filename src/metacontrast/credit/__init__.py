"""How a network's own gradient is found: credit rules, for any solver."""

from ._eprop import eprop as eprop
from ._equilibrium import equilibrium as equilibrium
from ._equilibrium import equilibrium_propagation as equilibrium_propagation
from ._feedback import direct_feedback_alignment as direct_feedback_alignment
from ._feedback import feedback_alignment as feedback_alignment
from ._feedback import random_feedback as random_feedback
from ._perturbation import node_perturbation as node_perturbation
from ._predictive import predictive_coding as predictive_coding
from ._rule import by as by
from ._rule import credited as credited
