from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from pathnas import config, config_networks, yaml_reader
from pathnas.config import Config, ConfigError

DETERMINISTIC = settings(deadline=None, derandomize=True, max_examples=100)

MINIMAL = """\
name: tiny
data:
  name: digits
  validation: 100
base:
  network:
    name: chain
    widths: [8, 16]
    cells: 1
  training:
    epochs: 2
final:
  training: {epochs: 3}
"""
LAST = MINIMAL.count("\n") + 1
NETWORK = "  network:\n    name: chain\n    widths: [8, 16]\n    cells: 1\n"


def faults(folder, text, overrides=()):
    """The faults of a text, without the folder's name."""
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


def loaded(folder, text, overrides=()):
    path = folder / "x.yaml"
    path.write_text(text)
    return config.load(path, overrides)


# What is replaced in the minimal text (nothing: appended), by what, and the faults that it makes.
BAD = [
    ("", "sead: 1", "14: sead: unknown key; did you mean 'seed'?"),
    ("", "colour: 1", "14: colour: unknown key; known keys: name, seed, runs, device, plugins, "
     "data, base, search, final, workers"),
    ("", "search:\n  controller:\n    hiden: 3",
     "16: search.controller.hiden: unknown key; did you mean 'hidden'?"),
    ("cells: 1", "cells: 1\n    width: [3]",
     "10: base.network.width: unknown key; did you mean 'widths'?"),
    ("epochs: 2", "epochs: 2\n    augment: {cutuot: 3}",
     "12: base.training.augment.cutuot: unknown key; did you mean 'cutout'?"),
    ("epochs: 2", "epochs: 2\n    birth: hard", "12: base.training.birth: unknown key; known keys: "
     "epochs, batch_size, learning_rate, momentum, nesterov, weight_decay, schedule, "
     "warmup_epochs, label_smoothing, precision, drop_path, "
     "drop_path_schedule, augment"),
    ("", "s\u0435ed: 1", "14: 's\\u0435ed': unknown key; did you mean 'seed'?"),
    ("", "se\u200bed: 1", "14: 'se\\u200bed': unknown key; did you mean 'seed'?"),
    ("", "seed: \uff11", "14: seed: expected an integer, got '\\uff11' (a string)"),
    ("", "search: {trial: {birth: g\u0430ted}}", "14: search.trial.birth: expected one of 'gated', "
     "'hard', 'distilled', got 'g\\u0430ted' (a string)"),
    ("name: tiny", "name: /etc", "1: name: must be letters, digits, '_', '.' and '-', beginning "
     "with a letter or a digit; got '/etc' (a string)"),
    ("", '"a b\\n": 1', "14: 'a b\\n': unknown key; known keys: name, seed, runs, device, "
     "plugins, data, base, search, final, workers"),
    ("", "plugins: my_ops", "14: plugins: expected a list, got 'my_ops' (a string)"),
    ("", "plugins: [a.b, a-b]", "14: plugins[1]: must be a module's name, as in package.module; "
     "got 'a-b' (a string)"),
    ("", "plugins: [a.b, a.b]", "14: plugins: must be distinct, got 'a.b' (a string) twice"),
    ("", "plugins: [3]", "14: plugins[0]: expected a string, got 3"),
    ("", "seed: '1'", "14: seed: expected an integer, got '1' (a string)"),
    ("", "seed: true", "14: seed: expected an integer, got true"),
    ("", "seed: 1.5", "14: seed: expected an integer, got 1.5"),
    ("", "seed: 1.0", "14: seed: expected an integer, got 1.0"),
    ("", "seed: null", "14: seed: expected an integer, got null"),
    ("", "seed: 2026-01-01", "14: seed: expected an integer, got '2026-01-01' (a string)"),
    ("", "seed: -1", "14: seed: must be >= 0, got -1"),
    ("", "seed: 4294967296", "14: seed: must be <= 4294967295, got 4294967296"),
    ("", f"seed: 1{'0' * 80}", f"14: seed: must be <= 4294967295, got 1{'0' * 56}..."),
    ("", "search: {trials: 0}", "14: search.trials: must be >= 1, got 0"),
    ("", "search: {max_macs: 0.5}", "14: search.max_macs: must be >= 1.0, got 0.5"),
    ("", "search: {max_macs: '2'}",
     "14: search.max_macs: expected a number or null, got '2' (a string)"),
    ("", "search: {control: no}",
     "14: search.control: expected true or false, got 'no' (a string)"),
    ("", "search: {control: 1}", "14: search.control: expected true or false, got 1"),
    ("", "search: {ops: []}", "14: search.ops: must have 1 to 64 items, got 0"),
    ("", "search: {ops: identity}",
     "14: search.ops: expected a list, got 'identity' (a string)"),
    ("", "search:\n  ops:\n  - identity\n  - 3",
     "17: search.ops[1]: expected a string, got 3"),
    ("", "search: {ops: [identity, '']}", "14: search.ops[1]: must not be empty"),
    ("", "search: {ops: [conv1x1]}", "14: search.ops: must contain 'identity'"),
    ("", "search: {ops: [identity, a, a]}", "14: search.ops: must be distinct, got 'a' twice"),
    ("", "search: null", "14: search: expected a mapping, got null"),
    ("", "search: []", "14: search: expected a mapping, got a list"),
    ("", "search: {trial: {gate_fraction: 0}}",
     "14: search.trial.gate_fraction: must be > 0.0, got 0"),
    ("", "search: {trial: {epochs: 0}, reward: {metric: extrapolated_fit}}",
     "14: search.reward: metric extrapolated_fit needs trials of at least one epoch, got 0"),
    ("", "search: {trial: {average_fraction: 1.5}}",
     "14: search.trial.average_fraction: must be <= 1.0, got 1.5"),
    ("", "search: {trial: {average_fraction: -0.1}}",
     "14: search.trial.average_fraction: must be >= 0.0, got -0.1"),
    ("", "search: {trial: {momentum: 1}}", "14: search.trial.momentum: must be < 1.0, got 1"),
    ("", "search: {trial: {birth: soft}}",
     "14: search.trial.birth: expected one of 'gated', 'hard', 'distilled', got 'soft' (a string)"),
    ("", "search: {trial: {epochs: 2, birth: distilled, distill: {epochs: 2}}}",
     "14: search.trial.distill: epochs must be below those of the training, 2"),
    ("", "search: {trial: {epochs: 1, birth: distilled}}",
     "14: search.trial.distill: epochs must be below those of the training, 1"),
    ("", "search: {trial: {inherit_optimizer: 1}}",
     "14: search.trial.inherit_optimizer: expected true or false, got 1"),
    ("", "search: {trial: {learning_rate: 1:30}}",
     "14: search.trial.learning_rate: expected a number, got '1:30' (a string)"),
    ("", "search: {trial: {learning_rate: true}}",
     "14: search.trial.learning_rate: expected a number, got true"),
    ("", "search: {reward: {failure: .nan}}",
     "14: search.reward.failure: must be a finite number, got nan"),
    ("", "search: {reward: {failure: -1e999}}",
     "14: search.reward.failure: must be a finite number, got -inf"),
    ("", "search: {reward: {cost_weight: 0.07}}",
     "14: search.reward.cost_weight: must be <= 0.0, got 0.07"),
    ("", "search: {reward: {shape: [tan]}}",
     "14: search.reward.shape: expected one of 'tan', 'accuracy', got a list"),
    ("", "search: {controller: {name: 1}}",
     "14: search.controller.name: expected one of 'reinforce', 'ppo', 'evolution', 'random', "
     "got 1"),
    ("", "workers: {deadline: 0}", "14: workers.deadline: must be > 0.0, got 0"),
    ("", "workers: {devices: [0, 1.5]}", "14: workers.devices[1]: expected a string, got 1.5"),
    ("", "workers: {devices: [cuda:0]}", "14: workers.devices[0]: must be a GPU's number or "
     "identifier, or several with commas; got 'cuda:0' (a string)"),
    ("", "workers: {address: 'a b'}", "14: workers.address: must be auto or HOST:PORT; got 'a b'"
     " (a string)"),
    ("", "device: gpu",
     "14: device: must be auto, cpu, mps, cuda or cuda:N; got 'gpu' (a string)"),
    ("", "device: 0", "14: device: expected a string, got 0"),
    ("", "runs: ''", "14: runs: must not be empty"),
    ("", r'runs: "a\0"',
     r"14: runs: must be a path without NUL characters; got 'a\x00' (a string)"),
    ("name: tiny", "name: ../up", "1: name: must be letters, digits, '_', '.' and '-', beginning "
     "with a letter or a digit; got '../up' (a string)"),
    ("name: tiny", 'name: "tiny\\n"', "1: name: must be letters, digits, '_', '.' and '-', "
     "beginning with a letter or a digit; got 'tiny\\n' (a string)"),
    ("name: tiny", "name: " + "a" * 65, "1: name: must have at most 64 characters, got '"
     + "a" * 56 + "... (a string)"),
    ("name: tiny\n", "", "1: name: missing (name of the run, and of its folder: a string)"),
    ("  validation: 100\n", "",
     "2: data.validation: missing (images held out of training: an integer)"),
    ("final:\n  training: {epochs: 3}\n", "",
     "1: final: missing (the full training of the best trees: a mapping)"),
    ("epochs: 2", "batch_size: 2",
     "10: base.training.epochs: missing (passes over the training images: an integer)"),
    ("name: digits", "name: digit", "3: data.name: unknown dataset 'digit'; did you mean "
     "'digits'?"),
    ("name: digits", "name: a b:c", "3: data.name: unknown dataset 'a b:c'; "
     "package.module:function or one of: digits, mnist, photos, cifar10, cifar100, imagefolder, "
     "synthetic"),
    ("name: digits", "name: digits\n  options: {a: [1]}", "4: data.options.a: expected a string, "
     "a number or true or false, got a list"),
    ("name: digits", "name: digits\n  options: {a: .inf}",
     "4: data.options.a: must be a finite number, got inf"),
    ("name: digits", f"name: digits\n  options: {{a: {2**63}}}",
     "4: data.options.a: must fit into 64 bits, got 9223372036854775808"),
    ("name: digits", "name: digits\n  options: [a]",
     "4: data.options: expected a mapping, got a list"),
    ("name: digits", "name: digits\n  options: {1: a}",
     "4: data.options.1: a key must be a string, got 1; quote it"),
    ("name: chain", "name: chian",
     "7: base.network.name: unknown network 'chian'; did you mean 'chain'?"),
    ("name: chain", "name: mlp",
     "7: base.network.name: unknown network 'mlp'; known networks: chain, residual, "
     "pyramidnet, densenet, condensenet"),
    ("name: chain", "name: [chain]",
     "7: base.network.name: expected one of 'chain', 'residual', 'pyramidnet', 'densenet', "
     "'condensenet', got a list"),
    ("    name: chain\n", "",
     "6: base.network.name: missing (kind of network: one of 'chain', 'residual', 'pyramidnet', "
     "'densenet', 'condensenet')"),
    ("network:\n    name: chain\n    widths: [8, 16]\n    cells: 1", "network: chain",
     "6: base.network: expected a mapping or null, got 'chain' (a string)"),
    (NETWORK, "",
     "5: base.network: missing (a mapping, unless base.model names a function)"),
    ("    widths: [8, 16]\n", "",
     "6: base.network.widths: missing (channels of each stage; a 2x2 stride between stages: "
     "a list)"),
    ("[8, 16]", "[]", "8: base.network.widths: must have 1 to 64 items, got 0"),
    ("[8, 16]", "[8,\n      0]", "9: base.network.widths[1]: must be >= 1, got 0"),
    ("cells: 1", "cells: 1\n    groups: 3",
     "10: base.network.groups: must divide every width and the stem, got 3 for 8"),
    ("cells: 1", "cells: 1\n    groups: 4\n    stem: 6",
     "10: base.network.groups: must divide every width and the stem, got 4 for 6"),
    ("  training:\n    epochs: 2\n", "",
     "5: base.training: missing (a mapping, unless base.weights names a file)"),
    ("training:\n    epochs: 2", "training: null",
     "10: base.training: missing (a mapping, unless base.weights names a file)"),
    ("training:\n    epochs: 2", "training: 2",
     "10: base.training: expected a mapping or null, got 2"),
    ("base:\n", "base:\n  model: a.b:c\n  cells: x\n",
     "8: base.network: must be absent beside base.model: one of the two is the base"),
    ("base:\n", "base:\n  model: a b:c\n",
     "6: base.model: expected package.module:function; got 'a b:c' (a string)"),
    ("base:\n", "base:\n  cells: '*'\n", "6: base.cells: must be absent without base.model"),
    ("base:\n", "base:\n  absorb: true\n", "6: base.absorb: must be absent without base.model"),
    ("base:\n", "base:\n  options: {a: 1}\n",
     "6: base.options: must be absent without base.model"),
    (NETWORK, "  model: a.b:c\n",
     "5: base.cells: missing (names or globs of the convolutions of base.model)"),
    (NETWORK, "  model: a.b:c\n  cells: 3\n", "7: base.cells: expected a list or null, got 3"),
    (NETWORK, "  model: a.b:c\n  cells: [a, '']\n", "7: base.cells[1]: must not be empty"),
    ("", "seed: 1\nseed: 2", "15: seed: given twice, on lines 14 and 15"),
    ("", "seed: *x", "14: aliases (*x) are not allowed"),
    ("", "seed: !!int 3", "14: tags (tag:yaml.org,2002:int) are not allowed"),
    ("", "---\nname: b", "14: a second document begins, expected a single one"),
    ("", "seed: " + "9" * 5000, "14: a number with more than 100 digits: " + "9" * 57 + "..."),
    ("", "seed: \0", "14: the character U+0000 is not allowed"),
    ("", "seed: \udcff", "14: not UTF-8 text"),
    ("", "seed: : 1", "14: not valid YAML: mapping values are not allowed here"),
    (MINIMAL, "", "1: nothing but blanks and comments, expected a value"),
    (MINIMAL, "- a", "1: expected a mapping of name, seed, runs, device, plugins, data, base, "
     "search, final, workers; got a list"),
    (MINIMAL, "a", "1: expected a mapping of name, seed, runs, device, plugins, data, base, "
     "search, final, workers; got 'a' (a string)"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_bad_files_are_named_in_plain_words(tmp_path, old, new, message):
    assert old in MINIMAL
    text = MINIMAL.replace(old, new, 1) if old else MINIMAL + new
    assert faults(tmp_path, text) == [f"x.yaml:{message}"]


BAD_OVERRIDES = [
    ("search.trials=0", "search.trials: must be >= 1, got 0"),
    ("search.controller.hiden=1", "search.controller.hiden: unknown key; did you mean 'hidden'?"),
    ("serach.trials=1", "serach: unknown key; did you mean 'search'?"),
    ("search={trials: 1, depth: 9}", "search.depth: must be <= 8, got 9"),
    ("seed.x=1", None),
    ("name.first=a", "name: is 'tiny' (a string), without keys of its own"),
    ("base.network.widths.0=1", "base.network.widths: is a list, without keys of its own"),
    ("base.network.widths=[0]", "base.network.widths[0]: must be >= 1, got 0"),
    ("base.network.name=residul",
     "base.network.name: unknown network 'residul'; did you mean 'residual'?"),
    ("base.network={name: densenet, growth: 5}",
     "base.network.groups: must divide the growth, got 2 for 5"),
    ("base.network={name: pyramidnet, stem: 1}",
     "base.network.groups: must be at most the stem's channels, got 2 for 1"),
    ("base.network={name: pyramidnet, alpha: -1}", "base.network.alpha: must be >= 0.0, got -1"),
    ("base.network={name: condensenet, cells: [1]}",
     "base.network.cells: must have as many items as layers, 5, got 1"),
    ("base.network={name: condensenet, cells: [0, 0, 0, 0, 0]}",
     "base.network.cells: must not all be 0"),
    ("base.network={name: condensenet, layers: [4, 6, 8, 10, 5]}",
     "base.network.cells: must be at most the stage's layers, got 6 for 5"),
    ("base.network={name: condensenet, growth: [8, 8, 8, 8, 12]}",
     "base.network.groups: must divide every growth, got 8 for 12"),
    ("base.network={name: condensenet, learned_groups: 5}",
     "base.network.learned_groups: must divide bottleneck x growth, got 5 for 32"),
    ("base.training=null",
     "base.training: missing (a mapping, unless base.weights names a file)"),
    ("search={trial: {epochs: 0}, reward: {metric: fit}}",
     "search.reward: metric fit needs trials of at least one epoch, got 0"),
    ("search.trials", "expected key=value with dotted keys, as search.trials=20"),
    ("search..trials=3", "expected key=value with dotted keys, as search.trials=20"),
    ("search.trials=", "no value after '='; write null or '' if that is meant"),
    ("search.ops=[identity", "not valid YAML: while parsing a flow sequence, expected ',' or ']', "
     "but got '<stream end>'"),
    ("name=&a b", "anchors (&a) are not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES)
def test_bad_overrides_are_named_in_plain_words(tmp_path, override, message):
    message = message or "seed: expected an integer, got a mapping"
    assert faults(tmp_path, MINIMAL, [override]) == [f"override {override!r}: {message}"]


def test_all_faults_come_at_once_file_first_in_order_of_lines(tmp_path):
    text = MINIMAL.replace("cells: 1", "cells: 0\n    grups: 2").replace("name: tiny", "name: ''")
    assert faults(tmp_path, text + "seed: a\nseed: b\n", ["workers.count=x", "x", "runs=3"]) == [
        "x.yaml:1: name: must be letters, digits, '_', '.' and '-', beginning with a letter or a "
        "digit; got '' (a string)",
        "x.yaml:9: base.network.cells: must be >= 1, got 0",
        "x.yaml:10: base.network.grups: unknown key; did you mean 'groups'?",
        "x.yaml:16: seed: given twice, on lines 15 and 16",
        "x.yaml:16: seed: expected an integer, got 'b' (a string)",
        "override 'x': expected key=value with dotted keys, as search.trials=20",
        "override 'runs=3': runs: expected a string, got 3",
        "override 'workers.count=x': workers.count: expected an integer, got 'x' (a string)",
    ]


def test_a_missing_file_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits.yaml", "cifar10.yaml"):
        (tmp_path / name).write_text(MINIMAL)
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "digit.yaml")
    expected = f"{tmp_path}/digit.yaml: no such file; nearest: {tmp_path}/digits.yaml"
    assert caught.value.faults == [expected]


def test_a_large_file_is_refused(tmp_path):
    message = "x.yaml: larger than 256 KiB"
    assert faults(tmp_path, MINIMAL + "#" * 256 * 1024) == [message]


def test_thousands_of_faults_are_listed_fast(tmp_path):
    text = MINIMAL + "".join(f"{'key' * 13}{line:04}: 1\n" for line in range(4_900))
    start = time.process_time()
    assert len(faults(tmp_path, text)) == 4_900
    assert time.process_time() - start < 4


def test_the_minimal_file_has_the_papers_settings(tmp_path):
    run = loaded(tmp_path, MINIMAL)
    assert run.base.network == config_networks.Chain(widths=(8, 16), cells=1)
    assert (run.base.network.activation, run.base.network.groups) == ("post", 1)
    assert run.search.ops[0] == "sep_conv3x3" and len(run.search.ops) == 7
    assert (run.search.trials, run.search.episodes, run.search.depth) == (500, 10, 3)
    trial = run.search.trial
    assert (trial.epochs, trial.learning_rate, trial.batch_size) == (20, 0.035, 64)
    assert (trial.momentum, trial.nesterov, trial.weight_decay) == (0.9, True, 1e-4)
    controller = run.search.controller
    assert (controller.embedding, controller.hidden, controller.head) == (10, 100, 500)
    assert (controller.learning_rate, controller.entropy, controller.clip) == (6e-3, 1e-2, 40.0)
    assert (controller.baseline, controller.decay) == ("paper", 0.95)
    assert (run.final.training.epochs, run.final.training.learning_rate) == (3, 0.1)
    assert (run.workers.kind, run.device, run.seed) == ("processes", "auto", 0)


def test_values_keep_their_types(tmp_path):
    text = MINIMAL + "search: {max_macs: 2, trial: {learning_rate: 1e-2, noise: 0}}\n"
    text = text.replace(
        "name: digits", "name: my.data:load\n  options: {a: 1, b: 1.0, c: true, d: no}"
    )
    run = loaded(tmp_path, text)
    assert repr(run.search.max_macs) == "2.0"
    assert run.search.trial.learning_rate == 0.01
    assert repr(run.data.options) == "{'a': 1, 'b': 1.0, 'c': True, 'd': 'no'}"
    assert isinstance(run.base.network.widths, tuple)


def test_gpus_are_named_by_numbers_or_identifiers(tmp_path):
    run = loaded(tmp_path, MINIMAL + "workers: {devices: [0, GPU-8f1, '2,3']}\n")
    assert run.workers.devices == ("0", "GPU-8f1", "2,3")


def test_a_model_of_ones_own_stands_in_the_place_of_the_network(tmp_path):
    text = MINIMAL.replace(NETWORK, "  model: my.nets:small\n  cells: body.*\n  options: {n: 3}\n")
    for training in ("  training:\n    epochs: 2\n", ""):
        run = loaded(tmp_path, text.replace("  training:\n    epochs: 2\n", training, 1))
        assert run.base.network is None and (run.base.training is None) == (not training)
        assert run.base.arguments() == {
            "name": "grafted",
            "model": "my.nets:small",
            "cells": ("body.*",),
            "activation": "pre",
            "absorb": False,
            "options": {"n": 3},
        }
        assert loaded(tmp_path, config.dump(run)) == run


def test_overrides_win_over_the_file(tmp_path):
    overrides = [
        "search.ops=[identity, conv1x1]",
        "base.network.name=residual",
        "base.network.groups=4",
        "base.training=null",
        "base.weights=a=b.safetensors",
        "search.reward.cost_weight=-7e-2",
        "search.trials=3",
        "search.trials=4",
        "name=2nd",
    ]
    run = loaded(tmp_path, MINIMAL + "search: {trials: 2, depth: 2}\n", overrides)
    assert run.search.ops == ("identity", "conv1x1")
    assert run.base.network == config_networks.Residual(widths=(8, 16), cells=1, groups=4)
    assert (run.base.weights, run.base.training) == ("a=b.safetensors", None)
    assert (run.search.reward.cost_weight, run.search.trials, run.search.depth) == (-0.07, 4, 2)
    assert run.name == "2nd"


def test_an_override_mends_the_file(tmp_path):
    text = MINIMAL.replace("epochs: 2", "epochs: -2").replace("  validation: 100\n", "")
    run = loaded(tmp_path, text, ["base.training={epochs: 4}", "data.validation=5"])
    assert (run.base.training.epochs, run.data.validation) == (4, 5)


def test_configs_cannot_change(tmp_path):
    with pytest.raises(ValidationError, match="frozen"):
        loaded(tmp_path, MINIMAL).seed = 3


def _models(kind: Any) -> set[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.values()
        return {kind}.union(*(_models(field.annotation) for field in fields))
    return set().union(*(_models(part) for part in get_args(kind)))


def test_every_setting_is_described_and_every_number_has_a_range():
    models = _models(Config)
    assert len(models) == 18
    for model in models:
        schema = model.model_json_schema()
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            for part in _numbers(schema["properties"][name]):
                low = {"minimum", "exclusiveMinimum"} & set(part)
                high = {"maximum", "exclusiveMaximum"} & set(part)
                assert name == "options" or (low and high), f"{model.__name__}.{name}"


def _numbers(schema: Any):
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield schema
        for part in schema.values():
            yield from _numbers(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _numbers(part)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
RECIPES = st.deferred(lambda: sections(config.Recipe))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
WIDTHS = st.lists(st.integers(1, 512), min_size=1, max_size=4)
PATHS = TEXT.map(lambda text: text.replace("\0", "") or "a")
GPUS = st.sampled_from(["0", "12", "0,1", "GPU-8f1a", "MIG-GPU-8f1a/3/0"])
OPTIONS = st.booleans() | st.integers(-(2**63), 2**63 - 1)
OPTIONS |= st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.sampled_from(["1e-3", "no"])
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "Config.name": NAMES,
    "Config.device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1", "mps"]),
    "Config.runs": PATHS,
    "Config.plugins": st.lists(st.sampled_from(["a", "a.b", "é_1.c"]), unique=True).map(tuple),
    "Data.name": st.sampled_from([*config.DATASETS, "a.b:c", "m:f"]),
    "Data.root": PATHS,
    "Data.options": st.dictionaries(TEXT, OPTIONS, max_size=4),
    "Workers.devices": st.none() | st.lists(GPUS, min_size=1, max_size=4).map(tuple),
    "Workers.address": st.none() | st.sampled_from(["auto", "10.0.0.1:6379", "[::1]:6379"]),
    "TrialRecipe.epochs": st.integers(5, 10_000),  # above those of the distillation
    "Distill.epochs": st.integers(1, 4),
    "Search.halving": st.none(),  # most draws of the trial's epochs would be too few
    "Search.latencies": st.none() | PATHS,
    "Search.rounds": st.just(1),  # more of them exclude inherit_optimizer
    "Search.ops": st.lists(TEXT.filter(bool), max_size=4, unique=True).map(
        lambda ops: (*(op for op in ops if op != "identity"), "identity")
    ),
}


def setting(kind: Any, limits: Sequence[Any] = ()) -> st.SearchStrategy[Any]:
    """Valid values of a field's type within its limits."""
    if get_origin(kind) is Annotated:
        kind, *extra = get_args(kind)
        return setting(kind, [*limits, *(one for field in extra for one in field.metadata)])
    if type(None) in get_args(kind):
        return st.none() | setting(get_args(kind)[0], limits)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if issubclass(kind, BaseModel):
        return sections(kind)
    keys = ("ge", "gt", "le", "lt")
    bounds = {key: getattr(one, key) for one in limits for key in keys if hasattr(one, key)}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if kind is int:
        return st.integers(low, high)
    return st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds)


def sections(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Valid instances of a model, every field drawn."""
    if model is config.Base:
        return bases()
    fields = {}
    for name, field in model.model_fields.items():
        special = SPECIAL.get(f"{model.__name__}.{name}")
        fields[name] = setting(field.annotation, field.metadata) if special is None else special
    return st.builds(model, **fields)


def bases() -> st.SearchStrategy[Any]:
    def network(kind, groups, widths, stem, **fields):
        widths = tuple(groups * width for width in widths)
        return kind(groups=groups, widths=widths, stem=stem and groups * stem, **fields)

    networks = st.builds(
        network,
        st.sampled_from([config_networks.Chain, config_networks.Residual]),
        st.integers(1, 8),
        WIDTHS,
        cells=st.integers(1, 100),
        stem=st.none() | st.integers(1, 512),
        activation=st.sampled_from(["pre", "post"]),
    )
    networks |= papers()
    trained = st.builds(config.Base, network=networks, training=RECIPES)
    taken = st.builds(config.Base, network=networks, weights=PATHS, training=st.none() | RECIPES)
    names = TEXT.filter(bool)
    own = st.builds(
        config.Base,
        model=st.sampled_from(["a.b:c", "m:f"]),
        cells=st.lists(names, min_size=1, max_size=3).map(tuple),
        activation=st.sampled_from(["pre", "post"]),
        absorb=st.booleans(),
        options=st.dictionaries(TEXT, OPTIONS, max_size=3),
        weights=st.none() | PATHS,
        training=st.none() | RECIPES,
    )
    return trained | taken | own


def papers() -> st.SearchStrategy[Any]:
    """Options of the paper's networks."""
    depths, groups = st.integers(1, 20), st.sampled_from([1, 2, 4])
    pyramid = st.builds(
        config_networks.PyramidNet,
        blocks=depths,
        alpha=st.integers(0, 300) | st.floats(0, 300),
        stem=st.integers(4, 64),
        groups=groups,
    )
    growth = st.sampled_from([8, 16, 48])
    dense = st.builds(config_networks.DenseNet, layers=depths, growth=growth, groups=groups)
    condense = st.lists(depths, min_size=1, max_size=4).flatmap(
        lambda layers: st.builds(
            config_networks.CondenseNet,
            layers=st.just(tuple(layers)),
            growth=st.tuples(*[growth] * len(layers)),
            cells=st.just(tuple(layers)),
            groups=groups,
            lasso=st.floats(0, 1),
        )
    )
    return pyramid | dense | condense


@DETERMINISTIC
@given(sections(Config))
def test_what_is_dumped_loads_to_an_equal_config(tmp_path_factory, run):
    text = config.dump(run)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(text)
    again = config.load(path)
    assert again == run
    assert repr(again) == repr(run)
    assert config.dump(again) == text


def test_a_dump_reads_well(tmp_path):
    lines = config.dump(loaded(tmp_path, MINIMAL)).splitlines()
    assert lines[:4] == ["name: tiny", "seed: 0", "runs: runs", "device: auto"]
    assert "    widths: [8, 16]" in lines
    assert "  max_macs: null" in lines


JUNK = st.sampled_from([None, True, 0, -1, 3.5, -1e300, 10**90, "", "x", [], [None], {}, {"a": 1}])
JUNK |= st.text(max_size=5) | st.floats()
WORDS = "unknown|missing|must|expected|given twice|is .*, without keys of its own"
FAULT = re.compile(rf"\S+/junk\.yaml:\d+: \S.*?: ({WORDS})")


@settings(DETERMINISTIC, max_examples=250)
@given(st.data())
def test_every_fault_has_a_place_and_plain_words(tmp_path_factory, data):
    values = yaml_reader.parse(MINIMAL).value
    values = Config.model_validate(values).model_dump(mode="json")
    for _ in range(data.draw(st.integers(1, 4))):
        node: Any = values
        while True:
            keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
            key = data.draw(st.sampled_from(keys))
            if not (isinstance(node[key], dict | list) and node[key]) or data.draw(st.booleans()):
                break
            node = node[key]
        if isinstance(node, dict) and data.draw(st.booleans()):
            node[data.draw(st.sampled_from([f"{key}s", "zzz"]))] = node.pop(key)
        else:
            node[key] = deepcopy(data.draw(JUNK))  # the next round may change it
    path = tmp_path_factory.getbasetemp() / "junk.yaml"
    path.write_text(yaml_reader.dump(values))
    try:
        config.load(path)
    except ConfigError as error:
        for fault in error.faults:
            assert FAULT.match(fault), fault
            assert "Input should" not in fault and "Value error" not in fault
            assert "\n" not in fault


@DETERMINISTIC
@given(st.binary(max_size=80) | st.text("ab:-[]{}#&*!'\"\n \t0", max_size=80).map(str.encode))
def test_any_bytes_are_refused_as_a_config_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        config.load(path, ["seed=1"])
    assert caught.value.faults


@DETERMINISTIC
@given(st.text("abseed.=:[]{}#&*'\"\n \t01\0\udc80", max_size=20) | st.text(max_size=20))
def test_any_override_is_taken_or_refused_as_a_config_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "minimal.yaml"
    path.write_text(MINIMAL)
    try:
        config.load(path, [text])
    except ConfigError as error:
        assert all(fault.startswith("override ") for fault in error.faults)


def test_no_torch_is_imported():
    code = "import sys, pathnas.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_that_are_true_or_false_stay_so_in_a_dump(tmp_path):
    run = loaded(tmp_path, MINIMAL, ["data.options={a: true, b: false, c: 1, d: 0.0}"])
    assert "  options: {a: true, b: false, c: 1, d: 0.0}" in config.dump(run).splitlines()
