"""Credit rules: what a network learns from in place of its own gradient, with any solver."""

from .._checked import check_public as _check_public
from ._eprop import eprop as eprop
from ._equilibrium import equilibrium as equilibrium
from ._equilibrium import equilibrium_propagation as equilibrium_propagation
from ._feedback import direct_feedback_alignment as direct_feedback_alignment
from ._feedback import feedback_alignment as feedback_alignment
from ._feedback import random_feedback as random_feedback
from ._perturbation import node_perturbation as node_perturbation
from ._predictive import predictive_coding as predictive_coding
from ._rule import Rule as Rule
from ._rule import credit_rule as credit_rule
from ._rule import with_credit_rule as with_credit_rule

_check_public(globals())
