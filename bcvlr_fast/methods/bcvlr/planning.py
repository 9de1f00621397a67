"""What the updates of BCV-LR cost on this machine, and how a run of given time is divided over its phases."""

from __future__ import annotations

from bcvlr_fast.envs import spec
from bcvlr_fast.methods.bcvlr.agent import Agent
from bcvlr_fast.methods.bcvlr.config import Config
from bcvlr_fast.methods.bcvlr.synthetic import learner_of, random_frames, store_of
from bcvlr_fast.methods.work import Costs, Work, seconds_per_interaction, seconds_per_update
from bcvlr_fast.training.compute import choose_compute, choose_device

_MEASURED_FRAMES = 2048


def measure_costs(config: Config) -> Costs:
    """Times the learners on random frames, and a few interactions."""
    compute = choose_compute(choose_device(config.device), config.precision, config.compile)
    store = store_of(random_frames(_MEASURED_FRAMES), compute.device)
    cost = {
        phase: seconds_per_update(learner_of(phase, config, compute, store))
        for phase in ("features", "latent actions", "pre-imitation", "cloning", "fine-tuning")
    }
    online = config.online
    label_s = max(0.0, cost["cloning"] - cost["pre-imitation"]) / online.clone_batch_size
    tasks = len(config.env)  # they share a pretraining
    work = (
        Work("features.updates", cost["features"], 0.04, 1000),
        Work("latent_actions.updates", cost["latent actions"], 0.14, 3000),
        Work("policy.updates", cost["cloning"], 0.04, 500),
        Work("online.finetune_updates", tasks * online.rounds * cost["fine-tuning"], 0.36, 1000),
        Work("online.clone_updates", tasks * online.rounds * cost["cloning"], 0.10, 400),
        Work("final.updates", tasks * cost["pre-imitation"], 0.32, 1 << 30),
    )
    policy = Agent(config, spec(config.first_env), compute).acting_policy()
    step_s = seconds_per_interaction(policy, online.num_envs)
    return Costs(work, tasks * (config.expert_frames * label_s + online.interactions * step_s), step_s)
