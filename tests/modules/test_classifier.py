"""Networks for features: runs that were stopped go on to the same bits."""

import pytest
import runs
import tiny
import torch
from commandline import in_process

NETWORKS = {
    "Classifier": ("SmallClassifier", {"dim": 8}),
    "Contrastive": ("SmallEncoder", {"in_channels": 1, "dim": 8}),
}


@pytest.mark.parametrize("module", NETWORKS)
def test_a_stopped_run_goes_on_to_the_same_bits(module, tmp_path):
    """Crops, blur and noise of a step follow from its number; the optimizer's state is kept."""
    name, arguments = NETWORKS[module]
    network = {"class_path": f"flowlit.networks.{name}", "init_args": arguments}
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}

    def trained(root, steps, *words):
        images = tiny.digits(labels=module == "Classifier", limit=20)
        content = tiny.fit(root, module, network, images, [tiny.checkpoints(2)], steps)
        content["model"]["init_args"] = {"network": network, "optimizer": optimizer, "noise": 0.1}
        del content["data"]["init_args"]["noise"]
        outcome = in_process("fit", "-c", tiny.write(tmp_path / "run.yaml", content), *words)
        assert outcome.code == 0, outcome.err
        return root / "checkpoints/last.ckpt"

    whole = trained(tmp_path / "whole", 5)
    trained(tmp_path / "parts", 3)
    before = tiny.weights(tmp_path / "parts/checkpoints/last.ckpt")
    parts = trained(tmp_path / "parts", 5, "--resume", "auto")
    counters = ("loops", "epoch", "hyper_parameters", "callbacks")  # a run that ends has ended an epoch
    assert runs.differences(whole, parts, counters) == []
    assert not tiny.same(before, tiny.weights(parts))
    assert torch.load(parts, weights_only=True)["global_step"] == 5
