"""Training jobs: inheriting, growing, saving, testing; the same bits wherever they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pathnas import (
    data,
    datasets,
    evaluators,
    executors,
    networks,
    optimizer_state,
    probing,
    training,
    weight_files,
)
from pathnas import tree as trees
from pathnas.config import Distill, Recipe, TrialRecipe
from pathnas.evaluators import InheritAndTrain, Scoring, Setting, Training
from pathnas.limits import Limits
from pathnas.outcomes import Candidate
from pathnas.tree import BASE_TREE, Edge, Node
from pathnas.treecells import TREES
from tests.strategies import TINY

BELOW = Node((Edge("max_pool3x3"), Edge("sep_conv3x3")), "add", "replicate")
TREE = Node((Edge("base", BELOW), Edge("base")), "add", "replicate")
NETWORK = {"name": "chain", "widths": (3, 4), "cells": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Training:
    folder: Path = tmp_path_factory.mktemp("run")
    splits = datasets.load("synthetic", train=96, validation=48, test=48, seed=3)
    for name in ("train", "validation", "test"):
        data.save(getattr(splits, name), folder / name)
    setting = Setting(folder, splits.normalization, splits.image_shape, splits.classes)
    job = Training(setting, NETWORK, Recipe(epochs=2), 5, save=folder / "base.safetensors")
    evaluators.train(job)
    return job


@pytest.fixture
def evaluator(base: Training) -> InheritAndTrain:
    network = networks.build(channels=1, classes=base.setting.classes, **NETWORK)
    shape = base.setting.image_shape
    inherit = replace(base, recipe=TrialRecipe(epochs=1), weights=base.save, save=None, noise=6e-3)
    limits = Limits(sites=networks.sites(network, shape))
    return InheritAndTrain(inherit, 0, limits, networks.macs(network, shape))


def test_seeds_depend_on_every_argument_and_nothing_else() -> None:
    seeds = {
        evaluators.seed_of(run, key, replicate)
        for run in (0, 1)
        for key in ("base", "base > conv1x1")
        for replicate in (0, 1)
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**63 for seed in seeds)
    assert evaluators.seed_of(0, "base") == 8382376551794362763  # a record outlives its process
    assert evaluators.trial_seed(0, Candidate(BASE_TREE)) != evaluators.seed_of(0, "base")


def test_what_is_inherited_answers_as_the_base_does(base: Training) -> None:
    x, _ = next(iter(base.setting.evaluation_batches(base.setting.source("validation"))))
    parent = evaluators.restore(base)
    grown = evaluators.build(replace(base, weights=base.save, tree=TREE)).eval()
    torch.testing.assert_close(grown(x), parent(x))
    images, _ = next(iter(base.setting.evaluation_batches(base.setting.source("train"))))
    torch.testing.assert_close(grown.train()(images), parent.train()(images), rtol=1e-3, atol=1e-3)


def test_an_outcome_tells_what_the_trial_cost(evaluator: InheritAndTrain) -> None:
    outcome = evaluator(Candidate(TREE))
    grown = networks.build(channels=1, classes=4, tree=TREE, **NETWORK)
    assert outcome.status == "ok" and 0 <= outcome.accuracy <= 1
    assert outcome.macs == networks.macs(grown, evaluator.base.setting.image_shape)
    assert outcome.parameters == networks.parameters(grown)
    assert outcome.images == 96 and outcome.seconds > 0


def test_the_curve_is_the_mean_loss_of_each_epoch(evaluator: InheritAndTrain) -> None:
    base = replace(evaluator.base, recipe=TrialRecipe(epochs=3, learning_rate=0.02))
    candidate = Candidate(TREE)
    outcome = replace(evaluator, base=base)(candidate)
    job = replace(base, tree=candidate.tree, seed=outcome.seed)
    network = evaluators.build(job).to(memory_format=torch.channels_last)
    epochs: list[training.Epoch] = []
    evaluators.learn(job, network, evaluators.training_batches(job), epochs.append)
    assert outcome.curve == tuple(epoch.loss for epoch in epochs)
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert outcome.curve[-1] < outcome.curve[0]
    assert evaluators.train(job).curve == outcome.curve


def test_an_outcome_is_the_same_wherever_it_is_made(evaluator: InheritAndTrain) -> None:
    candidates = [Candidate(TREE), Candidate(BASE_TREE), Candidate(Node((TREE.edges[0],)))]
    found = []
    for kind, count, order in (
        ("inline", 1, [0, 1, 2]),
        ("processes", 1, [2, 1, 0]),
        ("processes", 2, [1, 0, 2]),
    ):
        asked = [candidates[index] for index in order]
        with executors.executor(kind, count) as executor:
            results = dict(executor.run(evaluator, asked))
        outcomes = {order[index]: result.value for index, result in results.items()}
        found.append([replace(outcomes[index], seconds=0.0) for index in range(3)])
    assert found[0] == found[1] == found[2]
    assert len({outcome.accuracy for outcome in found[0]}) > 1


def test_a_training_with_drop_path_is_a_function_of_its_seed(base: Training) -> None:
    recipe = Recipe(epochs=1, drop_path=0.4, drop_path_schedule="constant")
    folder = base.setting.folder
    jobs = [
        replace(base, recipe=recipe, tree=TREE, seed=seed, save=folder / f"drop-{n}.safetensors")
        for n, seed in enumerate((1, 1, 2))
    ]
    plain = replace(jobs[0], recipe=Recipe(epochs=1), save=folder / "plain.safetensors")
    torch.manual_seed(1)
    evaluators.train(jobs[0])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    evaluators.train(plain)
    assert torch.equal(before, torch.get_rng_state())
    with executors.executor("processes", 2) as executor:
        assert all(result.failure is None for _, result in executor.run(evaluators.train, jobs[1:]))
    one, again, other, without = (load_file(job.save)["stem.0.weight"] for job in (*jobs, plain))
    assert torch.equal(one, again)
    assert not torch.equal(one, other) and not torch.equal(one, without)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyramidnet", "densenet", "condensenet"])
def test_the_papers_networks_are_inherited_and_trained(base: Training, name: str) -> None:
    folder, network = base.setting.folder, {"name": name, **TINY[name]}
    first = replace(
        base, network=network, recipe=Recipe(epochs=3), save=folder / f"{name}.safetensors"
    )
    evaluators.train(first)
    tree = TREES["treecell_b"]
    images, _ = next(iter(base.setting.evaluation_batches(base.setting.source("train"))))
    parent = evaluators.restore(first)
    grown = evaluators.build(replace(first, weights=first.save, tree=tree)).eval()
    torch.testing.assert_close(grown(images), parent(images), rtol=1e-3, atol=1e-4)
    sites = networks.sites(parent, base.setting.image_shape)
    evaluator = InheritAndTrain(
        replace(first, recipe=TrialRecipe(epochs=2), weights=first.save, save=None),
        0,
        Limits(sites=sites),
        networks.macs(parent, base.setting.image_shape),
    )
    outcomes = [evaluator(Candidate(tree)) for _ in range(2)]
    assert outcomes[0].accuracy == outcomes[1].accuracy and outcomes[0].status == "ok"
    assert outcomes[0].macs == networks.macs(grown, base.setting.image_shape)


@pytest.mark.parametrize("inherits", [False, True])
def test_a_distilled_trial_is_the_same_wherever_it_is_made(
    evaluator: InheritAndTrain, inherits: bool
) -> None:
    job = replace(
        evaluator.base,
        birth="distilled",
        recipe=TrialRecipe(epochs=3, learning_rate=0.1),
        distill=Distill(epochs=1, learning_rate=0.1),
        inherit_optimizer=inherits,
    )
    candidates = [Candidate(TREE), Candidate(BASE_TREE)]
    found = []
    for kind in ("inline", "processes"):
        with executors.executor(kind, 2) as executor:
            results = dict(executor.run(replace(evaluator, base=job), candidates))
        found.append([replace(results[index].value, seconds=0.0) for index in range(2)])
    assert found[0] == found[1]
    # The images of the distillation are among those of the trial, and the base tree needs none.
    assert [outcome.images for outcome in found[0]] == [3 * 96, 3 * 96]
    assert [len(outcome.curve) for outcome in found[0]] == [2, 3]


def steps_of(job: Training) -> tuple[dict[str, Tensor], int]:
    """The state after a training, and the images seen."""
    network = evaluators.build(job)
    _, images = evaluators.learn(job, network, evaluators.training_batches(job))
    return network.state_dict(), images


def test_a_distilled_birth_is_a_hard_one_distilled_and_then_trained(
    evaluator: InheritAndTrain,
) -> None:
    job = replace(
        evaluator.base,
        tree=TREE,
        birth="distilled",
        recipe=TrialRecipe(epochs=2),
        distill=Distill(epochs=2, learning_rate=0.02),
    )
    network = evaluators.build(replace(job, birth="hard"))
    batches = evaluators.training_batches(job)
    teacher = evaluators.base_of(job)
    training.distill(network, teacher, batches, epochs=2, learning_rate=0.02)
    state, images = steps_of(job)
    assert images == 2 * 96
    for name, value in network.state_dict().items():
        torch.testing.assert_close(state[name], value)
    hard, _ = steps_of(replace(job, birth="hard"))
    assert not torch.allclose(hard["head.2.bias"], state["head.2.bias"])


def test_a_trial_begins_with_the_momentum_that_the_base_network_ended_with(
    base: Training, evaluator: InheritAndTrain
) -> None:
    job = replace(evaluator.base, tree=TREE, inherit_optimizer=True)
    saved = load_file(weight_files.optimizer_file(base.save))
    assert set(saved) == {
        f"{name}.momentum_buffer" for name, _ in evaluators.base_of(job).named_parameters()
    }
    network = evaluators.build(job)
    optimizer = training.sgd(network)
    evaluators.inherit_optimizer(job, network, optimizer)
    state = optimizer_state.read(optimizer, network)
    name = "op.convs.0.weight.momentum_buffer"
    expected = saved[f"blocks.0.root.edges.0.{name}"]
    assert expected.any()
    for edge in "01":
        assert torch.equal(state[f"blocks.0.root.edges.{edge}.{name}"], expected)
    assert not state[f"blocks.0.root.edges.0.child.edges.1.{name}"].any()
    carried, _ = steps_of(job)
    fresh, _ = steps_of(replace(job, inherit_optimizer=False))
    assert not torch.allclose(carried["head.2.bias"], fresh["head.2.bias"])
    assert steps_of(replace(job, weights=None))[1] == 96  # there is nothing to inherit


def test_momentum_that_was_not_saved_is_missed_with_its_file(base: Training) -> None:
    alone = base.setting.folder / "alone.safetensors"
    alone.write_bytes(base.save.read_bytes())
    job = replace(base, weights=alone, save=None, inherit_optimizer=True)
    with pytest.raises(ValueError, match=r"alone\.optimizer\.safetensors: expected the optimizer"):
        evaluators.train(job)


def averaging(job: Training, fraction: float, **recipe: Any) -> Training:
    return replace(job, recipe=TrialRecipe(average_fraction=fraction, **recipe))


def test_a_trial_ends_with_the_mean_of_its_last_weights_and_statistics_for_it(
    evaluator: InheritAndTrain,
) -> None:
    job = averaging(replace(evaluator.base, tree=TREE), 0.5, epochs=2, batch_size=24)
    kept: list[list[Tensor]] = []
    network = evaluators.build(job)
    with torch.random.fork_rng():
        torch.manual_seed(evaluators.seed_of(job.seed, "training"))
        training.fit(
            network,
            evaluators.training_batches(job),
            epochs=2,
            learning_rate=job.recipe.learning_rate,
            hooks=training.Hooks(
                step_end=lambda: kept.append([p.detach().clone() for p in network.parameters()])
            ),
        )
    assert len(kept) == 8
    state, images = steps_of(job)
    assert images == (2 + 1) * 96
    for (name, _), *last in zip(network.named_parameters(), *kept[4:], strict=True):
        torch.testing.assert_close(state[name], torch.stack(last).mean(0))
    network.load_state_dict(state)
    shown = data.batches(
        job.setting.source("train"), batch_size=96, normalization=job.setting.normalization
    )
    [(x, _)] = shown
    with probing.mode(network, training=False):
        in_eval_mode = network(x)
    with probing.mode(network, training=True):
        in_train_mode = network(x)
    # Alike but for the variance, which is of a sample in the one and of a population in the other.
    torch.testing.assert_close(in_eval_mode, in_train_mode, rtol=0.02, atol=0.02)


def test_without_an_average_a_trial_is_what_it_was(evaluator: InheritAndTrain) -> None:
    job = replace(evaluator.base, tree=TREE)
    plain, images = steps_of(replace(job, recipe=Recipe(epochs=1, learning_rate=0.035)))
    same, as_many = steps_of(averaging(job, 0.0, epochs=1))
    assert images == as_many == 96
    assert all(torch.equal(plain[name], value) for name, value in same.items())
    other, _ = steps_of(averaging(job, 1.0, epochs=1))
    assert not torch.equal(plain["head.2.bias"], other["head.2.bias"])


@pytest.mark.parametrize("epochs", [0, 1])
def test_no_step_gives_no_average(evaluator: InheritAndTrain, epochs: int) -> None:
    job = replace(evaluator.base, tree=TREE, birth="distilled", distill=Distill(epochs=1))
    plain, images = steps_of(averaging(job, 0.0, epochs=epochs))
    same, as_many = steps_of(averaging(job, 1.0, epochs=epochs))
    assert images == as_many == 96 * epochs
    assert all(torch.equal(plain[name], value) for name, value in same.items())


def test_an_averaged_trial_is_the_same_wherever_it_is_made(evaluator: InheritAndTrain) -> None:
    job = averaging(evaluator.base, 0.3, epochs=2, drop_path=0.2)
    job = replace(job, inherit_optimizer=True)
    averaged = replace(evaluator, base=job)
    here = averaged(Candidate(TREE))
    with executors.executor("processes", 1) as executor:
        [(_, result)] = executor.run(averaged, [Candidate(TREE)])
    assert replace(result.value, seconds=0.0) == replace(here, seconds=0.0)
    assert here.status == "ok" and here.images == (2 + 1) * 96 and len(here.curve) == 2


def test_the_env_takes_it_as_its_evaluator(evaluator: InheritAndTrain) -> None:
    env = gymnasium.make(
        "pathnas.envs:pathnas/PathLevel-v0", evaluator=evaluator, limits=evaluator.limits
    )
    seen, _ = env.reset(seed=0)
    env.action_space.seed(0)
    done = False
    while not done:
        seen, reward, done, _, info = env.step(env.action_space.sample(seen["action_mask"]))
    outcome = evaluator(Candidate(trees.from_dict(info["tree"])))
    assert info["candidate"] == trees.key(trees.from_dict(info["tree"]))
    assert reward == pytest.approx(outcome.accuracy) and info["status"] == "ok"


def test_a_trial_leaves_the_global_generator_alone(evaluator: InheritAndTrain) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    evaluator(Candidate(TREE))
    assert torch.equal(before, torch.get_rng_state())


def test_a_trial_that_diverges_is_an_outcome(evaluator: InheritAndTrain) -> None:
    recipe = TrialRecipe(epochs=2, learning_rate=100.0, momentum=0.99, batch_size=4)
    wild = replace(evaluator, base=replace(evaluator.base, recipe=recipe))
    outcome = wild(Candidate(TREE))
    if outcome.status == "ok":  # norms tame almost any rate; poison the weights instead
        weights = load_file(evaluator.base.weights)
        poisoned = evaluator.base.setting.folder / "poisoned.safetensors"
        weights["head.2.weight"].fill_(float("nan"))
        save_file(weights, poisoned)
        wild = replace(wild, base=replace(wild.base, weights=poisoned))
        outcome = wild(Candidate(TREE))
    assert outcome.status == "diverged" and outcome.accuracy is None
    assert "the loss became nan" in outcome.error


def test_the_tested_network_is_the_saved_one(base: Training) -> None:
    measured = evaluators.score(Scoring(base, "validation"))
    again = evaluators.train(replace(base, save=base.setting.folder / "again.safetensors"))
    assert measured == again.accuracy
    assert 0 <= evaluators.score(Scoring(base)) <= 1


def test_a_last_batch_of_one_image_is_left_out(base: Training) -> None:
    network = {**NETWORK, "widths": (3, 3, 3, 3)}  # a single pixel is left of the image
    job = replace(base, network=network, recipe=Recipe(epochs=2, batch_size=95), save=None)
    assert evaluators.train(job).images == 2 * 95


def test_training_on_everything_sees_both_sets(base: Training) -> None:
    job = replace(base, everything=True, save=None)
    assert evaluators.train(job).images == 2 * (96 + 48)


def test_weights_of_another_network_are_refused_with_the_file(base: Training) -> None:
    other = {**NETWORK, "widths": (3, 5)}
    with pytest.raises(ValueError, match=r"base\.safetensors: expected the weights of this"):
        evaluators.build(replace(base, network=other, weights=base.save))
    garbage = base.setting.folder / "garbage.safetensors"
    garbage.write_bytes(b"\x80\x04K*.")
    with pytest.raises(ValueError, match=r"garbage\.safetensors: expected the weights"):
        evaluators.build(replace(base, weights=garbage))


def test_what_was_not_saved_cannot_be_tested_or_restored(base: Training) -> None:
    for function, job in ((evaluators.score, Scoring(replace(base, save=None))),):
        with pytest.raises(ValueError, match="only a training that was saved"):
            function(job)
    with pytest.raises(ValueError, match="only a training that was saved"):
        evaluators.restore(replace(base, save=None))


def test_devices_are_resolved_or_refused() -> None:
    assert evaluators.resolve_device("cpu") == torch.device("cpu")
    assert evaluators.resolve_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="that this machine has, got 'cuda:1'"):
            evaluators.resolve_device("cuda:1")
