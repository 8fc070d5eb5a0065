"""verl's own losses and rollout correction, without ray: core_algos.py and rollout_corr_helper.py with its torch_functional.py, of the rest only names.

VERL in the environment is a checkout of verl (commit 1dda039b9), VERL_VETO one of its last version with rollout_token_veto_threshold (518bada21).
"""
import importlib.util
import os
import pathlib
import sys
import types
from types import SimpleNamespace


class ActorConfig(SimpleNamespace):
    def get(self, key, default=None):
        return getattr(self, key, default)


class DataProto:
    @staticmethod
    def from_dict(tensors):
        return SimpleNamespace(batch=tensors)


def stub(name, **members):
    module = types.ModuleType(name)
    module.__path__ = []
    module.__dict__.update(members)
    sys.modules[name] = module


def load_file(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load():
    """(core_algos, rollout_corr_helper, the helper that has the veto)"""
    root = pathlib.Path(os.environ["VERL"])
    nothing = type("Nothing", (), {})
    identity = lambda *a, **k: (lambda f: f)
    for name, members in {
            "verl": {}, "verl.utils": dict(as_torch_index=None, group_mean_std=None), "verl.utils.device": dict(get_device_name=None, get_torch_device=None),
            "verl.utils.import_utils": dict(deprecated=identity), "verl.trainer": {}, "verl.trainer.ppo": {}, "verl.trainer.config": dict(AlgoConfig=nothing),
            "verl.trainer.config.algorithm": dict(RolloutCorrectionConfig=nothing), "verl.workers": {}, "verl.workers.config": dict(ActorConfig=ActorConfig),
            "verl.workers.config.actor": dict(PolicyLossConfig=nothing), "verl.protocol": dict(DataProto=DataProto), "omegaconf": dict(DictConfig=nothing),
            "tensordict": dict(TensorDict=nothing)}.items():
        stub(name, **members)
    sys.modules["verl.utils"].torch_functional = load_file("verl.utils.torch_functional", root / "verl/utils/torch_functional.py")
    algos = load_file("verl.trainer.ppo.core_algos", root / "verl/trainer/ppo/core_algos.py")
    helper = "verl/trainer/ppo/rollout_corr_helper.py"
    return algos, load_file("verl.trainer.ppo.rollout_corr_helper", root / helper), load_file("veto_helper", pathlib.Path(os.environ["VERL_VETO"]) / helper)
