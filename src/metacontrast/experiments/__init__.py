"""One flat file an experiment; each may repeat what another says."""

EXPERIMENTS = {
    "sine": "regression of sines from 10 points, net 1-40-40-1",
    "theory": "errors of the rule against beta, solver accuracy and cost",
    "estimators": "the sine experiment with every estimator, at equal wall-clock",
    "complementary": "sines by an online, local process: tagging synapses and a replaying memory",
}
