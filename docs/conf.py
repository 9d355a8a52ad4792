"""The site: `sphinx-build -W docs site`; Markdown pages, a notebook, the API from docstrings."""

import dss_jax

project = 'dss_jax'
author = 'the dss_jax authors'
version = release = dss_jax.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = 'dss_jax'

myst_heading_anchors = 3  # Links such as your_task.md#in-batches.
nb_execution_mode = 'off'  # The notebook's outputs are stored; a test executes it.
nb_merge_streams = True

default_role = 'code'  # `name` in a docstring.
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # They are in the signature's text already.
autodoc_default_options = {'members': True}
copybutton_prompt_text = '$ '
smartquotes = False

_SECTIONS = ('Args:', 'Attributes:', 'Returns:', 'Raises:', 'Yields:')


def _show_examples(app, what, name, obj, options, lines):
  """Indented lines of a docstring, outside its sections, are shown as they stand."""
  found, outer = [], ''
  for line in lines:
    begins = line.startswith(' ') and found and not found[-1] and outer not in _SECTIONS
    found += ['::', '', line] if begins and not outer.endswith('::') else [line]
    outer = line if line.strip() and not line.startswith(' ') else '::' if begins else outer
  lines[:] = found


def setup(app):
  app.connect('autodoc-process-docstring', _show_examples, priority=1)  # Before napoleon.
