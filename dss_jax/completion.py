"""`dss completion SHELL`: a script for the shell's Tab key, of all verbs and flags.

examples:
  dss completion bash > ~/.local/share/bash-completion/completions/dss
  dss completion zsh > ~/.zfunc/_dss      # a folder of $fpath
"""

import argparse
import importlib
from collections.abc import Sequence

import shtab

from dss_jax import arguments, cli


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the script."""
  shell = arguments.parse(parser(), argv).shell
  whole = argparse.ArgumentParser(prog='dss')
  verbs = whole.add_subparsers()
  for verb, (module, what) in cli.VERBS.items():
    verbs.add_parser(verb, help=what, parents=[importlib.import_module(module).parser()],
                     add_help=False)
  print(shtab.complete(whole, shell))
  return 0


def parser() -> argparse.ArgumentParser:
  """Its flags."""
  parser = argparse.ArgumentParser(
      prog=cli.program('completion'), description=__doc__.partition(': ')[2],
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('shell', choices=shtab.SUPPORTED_SHELLS)
  return parser


if __name__ == '__main__':
  cli.run(main)
