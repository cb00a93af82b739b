"""One flat file an experiment; each may repeat what another says."""

EXPERIMENTS = {
    "sine": "regression of sines from 10 points, net 1-40-40-1",
    "theory": "errors of the rule against beta, solver accuracy and cost",
    "estimators": "the sine experiment with every estimator, at equal wall-clock",
    "complementary": "sines by an online, local process with a replaying memory",
    "complementary-characters": "characters told apart by the same process, image by image",
    "credit": "sines learned without backpropagation: other inner gradients",
    "spiking": "sines by a recurrent spiking network, e-prop and the contrastive rule",
    "omniglot": "characters told apart from 1 or 5 drawings of each",
    "miniimagenet": "photographs of 5 classes told apart from 1 or 5 of each",
    "hypercleaning": "wrong labels of MNIST found by learning one weight an example",
    "bandit": "a wheel whose rare, rich arms are found by what was learned of other wheels",
    "reweight": "weights of seven sources of text, for a transformer that models one domain",
    "cifar10-overfit": "a lambda for each weight of LeNet-5, against overfitting 50 images",
    "cifar10-l2": "a lambda for each weight of LeNet-5, against the best one for all",
}
