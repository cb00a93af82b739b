"""One flat file an experiment; each may repeat what another says."""

EXPERIMENTS = {
    "sine": "regression of sines from 10 points, net 1-40-40-1",
    "omniglot": "characters told apart from 1 or 5 drawings of each",
    "miniimagenet": "photographs of 5 classes told apart from 1 or 5 of each",
    "hypercleaning": "wrong labels of MNIST found by learning one weight an example",
    "cifar10-overfit": "how far a regulariser can drive down a validation loss, LeNet-5",
}
