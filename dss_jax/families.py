"""The families of networks: all in which they differ.

A family is a file in models/ (config and module), one in convert/ (what others call its parts),
and a row of the table here.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from dss_jax import errors, models
from dss_jax.convert import t5


@dataclasses.dataclass(frozen=True)
class Family:
  """One row of the table.

  Attributes:
    model_types: what `config.json` calls it.
    config: class of its hyperparameters.
    module: its network, made from a config.
    names: our name of a parameter -> Hugging Face's, without '.weight'; '{i}' is the layer.
    copies: what else Hugging Face calls the embedding.
    unused: tensors that may be in its files and that it does not read.
    from_hugging_face: (config.json, where it is) -> config; UserError for what it does not have.
    to_hugging_face: config -> what config.json says beside ids and dtype.
    from_shapes: (specs by our names, fields that are known) -> config; KeyError if the parameters
      are of another family.
    unseen: fields that shapes do not tell, and that change the numbers.
    in_t5x: whether T5X's examples have this network.
  """

  model_types: tuple[str, ...]
  config: type[models.Config]
  module: type[models.Network]
  names: Mapping[str, str]
  copies: tuple[str, ...]
  unused: tuple[str, ...]
  from_hugging_face: Callable[[Mapping[str, Any], str], Any]
  to_hugging_face: Callable[[Any], dict[str, Any]]
  from_shapes: Callable[..., Any]
  unseen: tuple[str, ...]
  in_t5x: bool

  def their_name(self, name: str) -> str:
    """'encoder/layers_3/mlp/wo/kernel' -> 'encoder.block.3.layer.1.DenseReluDense.wo.weight'."""
    layer = re.search(r'/layers_(\d+)/', name)
    template = self.names[name.replace(layer[0], '/layers_{i}/') if layer else name]
    return f'{template.format(i=layer[1]) if layer else template}.weight'


_OTHERS = {  # model_type: what this project lacks
    'longt5': 'LongT5, which attends locally or to summaries of blocks',
    'switch_transformers': 'Switch Transformers, a mixture of experts',
    't5gemma': "T5Gemma, made of Gemma 2's layers",
    't5gemma2': "T5Gemma 2, made of Gemma 3's layers",
}
T5 = 't5'  # what student.json means that names no family
FAMILIES = {  # by what student.json calls them
    T5: Family(
        model_types=t5.MODEL_TYPES, config=models.T5Config, module=models.Transformer,
        names=t5.NAMES, copies=t5.COPIES, unused=t5.UNUSED,
        from_hugging_face=t5.from_hugging_face, to_hugging_face=t5.to_hugging_face,
        from_shapes=t5.from_shapes, unseen=('mlp_activations', 'relpos_max_distance'),
        in_t5x=True),
}


def of(config: models.Config) -> Family:
  """The family whose config this is."""
  return FAMILIES[name(config)]


def name(config: models.Config) -> str:
  """'t5'"""
  return next(name for name, one in FAMILIES.items() if isinstance(config, one.config))


def network(config: models.Config) -> models.Network:
  """The network of a config."""
  return of(config).module(config)


def of_model_type(kind: Any, where: str) -> Family:
  """The family of config.json's `model_type`.

  Raises:
    UserError: there is none.
  """
  for one in FAMILIES.values():
    if kind in one.model_types:
      return one
  known = ', '.join(kind for one in FAMILIES.values() for kind in one.model_types)
  why = f' ({_OTHERS[kind]})' if kind in _OTHERS else ''
  raise errors.UserError(
      f'{where}: model_type is {kind!r}{why}, which this project does not have; give a T5 ('
      f'{known}: T5 v1.0 and v1.1, LM-adapted, Flan-T5, mT5, umT5, ByT5, UL2, madlad400)')


def infer_config(specs: Mapping[str, Any], **known: Any) -> Any:
  """The config of parameters by their names and shapes, see `Family.from_shapes`.

  Raises:
    KeyError: a parameter that every family has is missing.
  """
  for one in list(FAMILIES.values())[1:]:
    with contextlib.suppress(KeyError):
      return one.from_shapes(specs, **known)
  return FAMILIES[T5].from_shapes(specs, **known)
