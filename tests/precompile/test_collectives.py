"""Bytes of collectives, counted in programs that were compiled for eight devices."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from dss_jax.precompile import collectives

ROW = 4 * 128  # bytes of a device's float32 [1, 128]


def all_kinds(x):
  """Each kind once, on a device's [1, 128]; of the same shape again."""
  x = x + jax.lax.psum(x, 'i')
  gathered = jax.lax.all_gather(jnp.sin(x), 'i', axis=0, tiled=True)
  x = x + jax.lax.psum_scatter(jnp.cos(gathered), 'i', scatter_dimension=0, tiled=True)
  x = x + jax.lax.all_to_all(x.reshape(8, 16), 'i', 0, 0, tiled=True).reshape(1, 128)
  return jax.lax.ppermute(x, 'i', [(i, (i + 1) % 8) for i in range(8)])


def looped(x, length):
  return jax.lax.scan(lambda x, _: (all_kinds(jnp.sin(x)), None), x, length=length)[0]


def until_small(x):
  return jax.lax.while_loop(lambda x: jnp.max(x) > 1e-3, lambda x: all_kinds(x / 99), x)


@functools.cache
def text_of(fn, *args):
  mesh = jax.make_mesh((8,), ('i',), axis_types=(jax.sharding.AxisType.Auto,))
  mapped = jax.shard_map(
      lambda x: fn(x, *args), mesh=mesh, in_specs=P('i'), out_specs=P('i'), check_vma=False)
  return jax.jit(mapped).lower(jax.ShapeDtypeStruct((8, 128), jnp.float32)).compile().as_text()


EACH = {'all-gather': 8 * ROW, 'all-reduce': ROW, 'reduce-scatter': 8 * ROW, 'all-to-all': ROW,
        'collective-permute': ROW}
NONE = dict.fromkeys(EACH, 0)


def test_each_kind_is_counted_with_its_bytes():
  assert collectives.count(text_of(all_kinds)) == collectives.Traffic(EACH, NONE, 0)


def test_a_loop_counts_as_often_as_it_runs():
  expected = {kind: 5 * size for kind, size in EACH.items()}
  assert collectives.count(text_of(looped, 5)) == collectives.Traffic(expected, NONE, 0)


def test_a_loop_that_ends_on_data_is_counted_apart():
  traffic = collectives.count(text_of(until_small))
  assert traffic == collectives.Traffic(NONE, EACH, 1)


TPU = """\
HloModule jit_step, is_scheduled=true

%cond (p: (s32[], f32[8])) -> pred[] {
  %bound = s32[]{:T(128)} constant(24)
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%scatter.1 (a: bf16[64,8]) -> bf16[8,8] {
  %a = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.5 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%a), channel_id=3, to_apply=%add
  ROOT %cut = bf16[8,8]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.5, %zero)
}

%part.1 (a: f32[8]) -> f32[64] {
  %a.1 = f32[8]{0:T(128)S(1)} parameter(0)
  ROOT %all-gather.1 = f32[64]{0:T(128)} all-gather(%a.1), channel_id=7, dimensions={0}
}

%part.2 (a: f32[8]) -> f32[64] {
  %a.2 = f32[8]{0:T(128)S(1)} parameter(0)
  ROOT %all-gather.2 = f32[64]{0:T(128)} all-gather(%a.2), channel_id=7, dimensions={0}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.2 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %x = f32[8]{0:T(128)} get-tuple-element(%p.2), index=1
  %step = s32[]{:T(128)} constant(2)
  %copied = s32[]{:T(128)} copy(%i.2)
  %next = s32[]{:T(128)} add(%copied, %step)
  %fusion.1 = f32[64]{0:T(128)} fusion(%x), kind=kCustom, calls=%part.1
  %fusion.2 = f32[64]{0:T(128)} fusion(%x), kind=kCustom, calls=%part.2
  %sent = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  %got = f32[8]{0:T(128)} collective-permute-done(%sent)
  ROOT %out = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%next, %got)
}

ENTRY %main (x: f32[8], a: bf16[64,8]) -> f32[8] {
  %x.1 = f32[8]{0:T(128)} parameter(0)
  %a.3 = bf16[64,8]{1,0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %fusion.3 = bf16[8,8]{1,0} fusion(%a.3), kind=kCustom, calls=%all-reduce-scatter.1
  %both = (f32[8]{0}, /*index=1*/bf16[64,8]{1,0}) all-reduce(%x.1, %a.3), to_apply=%add
  %tuple = (s32[]{:T(128)}, f32[8]{0}) tuple(%start, %x.1)
  %while = (s32[]{:T(128)}, f32[8]{0}) while(%tuple), condition=%cond, body=%body
  ROOT %y = f32[8]{0:T(128)} get-tuple-element(%while), index=1
}
""".replace('%scatter.1', '%all-reduce-scatter.1')


def test_the_forms_of_tpu_programs():
  """The loop runs 12 times in steps of 2; one gather goes on through two fusions."""
  assert collectives.count(TPU).whole == {
      'all-gather': 12 * 4 * 64, 'all-reduce': 4 * 8 + 2 * 64 * 8, 'reduce-scatter': 2 * 64 * 8,
      'all-to-all': 0, 'collective-permute': 12 * 4 * 8}


@pytest.mark.parametrize('old, new', [
    ('direction=LT', 'direction=NE'), ('constant(2)', 'parameter(1)'),
    ('%start = s32[]{:T(128)} copy(%zero)', '%start = s32[]{:T(128)} parameter(2)')])
def test_a_loop_of_another_form_is_not_guessed(old, new):
  traffic = collectives.count(TPU.replace(old, new))
  assert traffic.unknown_loops == 1 and traffic.per_pass['all-gather'] == 4 * 64


def test_scans_are_known_without_what_xla_adds_to_them():
  text = text_of(looped, 5).replace('known_trip_count', 'other')
  module, entry = collectives.parse(text)
  found = [collectives.trips(module, module[entry], one) for one in module[entry].values()
           if one.operation == 'while']
  assert found == [5]


def test_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match='no entry computation'):
    collectives.parse('HloModule nothing\n')
